"""Rules of a dialect for runs and attempts as a whole, which the correlator follows."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple


class Policy(NamedTuple):
    """Identity of runs, and meaning of a second start."""

    unique_runs: bool = True
    """A run id is never used again; else a run's identity is its id together with the time it was opened."""
    restart_is_attempt: bool = False
    """A second start of an open phase by the same publisher is its next attempt, else a phase beside it."""
    each: bool = False
    """Every outermost job is a run of its own."""
