"""Bounds and counts of the correlator."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple


class Limits(NamedTuple):
    """Bounds of the correlator. Beyond them the oldest is closed as ``abandoned`` and counted; open work never expires.

    The times are: how long a failure may be retried (``retry_window_s``), how long an unannounced run may be quiet before it
    ends (``inferred_run_s``; ``implicit_run_s`` without an id), and how long an event waits for the run of its publisher
    (``early_event_s``).
    """

    open_runs: int = 4_096
    open_phases: int = 16_384
    children_kept: int = 10_000
    ended_runs_remembered: int = 1_024
    ended_phases_remembered: int = 4_096
    event_ids_remembered: int = 32_768
    early_events: int = 1_024
    retry_window_s: float = 30.0
    inferred_run_s: float = 600.0
    implicit_run_s: float = 5.0
    early_event_s: float = 5.0


class CorrelatorState(NamedTuple):
    """Counts of events and spans; the same names are used in the JSON documents."""

    events_seen: int = 0
    events_recorded: int = 0
    events_duplicate: int = 0
    events_late: int = 0
    runs_open: int = 0
    phases_open: int = 0
    runs_ended: int = 0
    phases_ended: int = 0
    run_failures: int = 0
    phase_failures: int = 0
    retries: int = 0
    orphan_ends: int = 0
    unmatched_ends: int = 0
    abandoned: int = 0
    errors: int = 0
    """Internal errors, counted by the handle."""
    last_error: str | None = None


class Counts:
    """Mutable counts, guarded by the correlator's lock."""

    __slots__ = (
        "abandoned",
        "duplicates",
        "late",
        "orphan_ends",
        "phase_failures",
        "phases_ended",
        "phases_open",
        "recorded",
        "retries",
        "run_failures",
        "runs_ended",
        "seen",
        "unmatched_ends",
    )

    def __init__(self) -> None:
        self.seen = self.recorded = self.duplicates = self.late = 0
        self.phases_open = self.runs_ended = self.phases_ended = 0
        self.run_failures = self.phase_failures = self.retries = 0
        self.orphan_ends = self.unmatched_ends = self.abandoned = 0

    def state(self, runs_open: int) -> CorrelatorState:
        """Return a snapshot."""
        return CorrelatorState(
            self.seen,
            self.recorded,
            self.duplicates,
            self.late,
            runs_open,
            self.phases_open,
            self.runs_ended,
            self.phases_ended,
            self.run_failures,
            self.phase_failures,
            self.retries,
            self.orphan_ends,
            self.unmatched_ends,
            self.abandoned,
        )
