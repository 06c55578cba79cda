"""Policy of a dialect for runs and attempts, followed by the correlator."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple


class Policy(NamedTuple):
    """Identity of runs, and the meaning of a second start."""

    unique_runs: bool = True
    """Run ids are never reused; otherwise a run is identified by its id and the time it was opened."""
    restart_is_attempt: bool = False
    """A second start of an open phase by the same publisher is its next attempt, otherwise a parallel phase."""
    each: bool = False
    """Each outermost job is a run of its own."""
