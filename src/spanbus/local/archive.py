"""What the backend asks of the place where telemetry is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from spanbus.local.api import TraceSource
from spanbus.local.heads import PhasePoint, RunHead, TraceHead
from spanbus.local.receiver import Sink
from spanbus.local.series import SeriesSource


class Archive(Sink, TraceSource, SeriesSource, Protocol):
    """Everything that is kept, written and asked. Called in worker threads; raises StoreError."""

    def run_heads(
        self, *, workflow: str | None = None, result: str | None = None, text: str | None = None, since_ns: int | None = None, limit: int = 100, offset: int = 0,
    ) -> Sequence[RunHead]:
        """The newest first; ``result`` is read by :func:`results`, ``text`` is a part of the workflow's name or the beginning of a run id."""
        ...

    def run_head(self, run: str) -> RunHead:
        """By id, by unique prefix, or ``last``; raises RunNotFound."""
        ...

    def workflows(self) -> Sequence[str]: ...

    def trace_heads(self, *, service: str | None = None, text: str | None = None, since_ns: int | None = None, limit: int = 100) -> Sequence[TraceHead]:
        """Traces of other clients, the newest first; ``text`` is a part of the name or the beginning of a trace id."""
        ...

    def phase_points(self, *, since_ns: int, workflow: str | None, limit: int) -> Sequence[PhasePoint]:
        """The newest ``limit`` phases, oldest first."""
        ...
