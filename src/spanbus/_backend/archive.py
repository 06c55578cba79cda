"""The backend's interface to the place where telemetry is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from spanbus._backend.api import TraceSource
from spanbus._backend.receiver import Sink
from spanbus._runs.listing import PhasePoint, RunGlance, RunHead, TraceHead
from spanbus._runs.summary import RunSummary
from spanbus._store.series import SeriesSource


class Archive(Sink, TraceSource, SeriesSource, Protocol):
    """Everything that is kept, written and asked. Called in worker threads; raises StoreError."""

    def run_heads(
        self,
        *,
        workflow: str | None = None,
        project: str | None = None,
        result: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[RunHead]:
        """The newest first; ``result`` is read by :func:`results`, ``text`` is a part of the workflow's name or the
        beginning of a run id.
        """
        ...

    def run_head(self, run: str) -> RunHead:
        """By id, by unique prefix, or ``last``; raises RunNotFound."""
        ...

    def workflows(self) -> Sequence[str]: ...

    def projects(self) -> Sequence[str]: ...

    def trace_heads(
        self,
        *,
        service: str | None = None,
        text: str | None = None,
        since_ns: int | None = None,
        limit: int = 100,
    ) -> Sequence[TraceHead]:
        """Traces of other clients, the newest first; ``text`` is a part of the name or the beginning of a trace id."""
        ...

    def phase_points(
        self,
        *,
        since_ns: int,
        workflow: str | None,
        limit: int,
        project: str | None = None,
        phase: str | None = None,
    ) -> Sequence[PhasePoint]:
        """The newest ``limit`` phases, oldest first."""
        ...

    def glances(self, heads: Sequence[RunHead]) -> Sequence[RunGlance]:
        """Return what a list shows of each run beside its head, in the same order."""
        ...

    def run(self, run: RunHead) -> RunSummary:
        """A stored run with its phases; raises RunNotFound."""
        ...


@runtime_checkable
class Shortened(Protocol):
    """An archive that keeps a part of a run that is larger than all its room, and knows of how many spans."""

    def missing_spans(self, trace_id: str) -> int: ...
