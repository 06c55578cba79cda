"""Interface of the backend to the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from spanbus._backend.api import TraceSource
from spanbus._backend.receiver import Sink
from spanbus._runs.listing import PhasePoint, RunGlance, RunHead, TraceHead
from spanbus._runs.summary import RunSummary
from spanbus._store.series import SeriesSource


class Archive(Sink, TraceSource, SeriesSource, Protocol):
    """Store of all telemetry. Called in worker threads; raises StoreError."""

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
        """Heads of runs, newest first; ``result`` is parsed by :func:`results`, ``text`` is a part of the workflow's name or
        the beginning of a run id.
        """
        ...

    def run_head(self, run: str) -> RunHead:
        """Find a run by id, by unique prefix, or ``last``; raises RunNotFound."""
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
        """Traces of other clients, newest first; ``text`` is a part of the name or the beginning of a trace id."""
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
        """Details of each run for a list, in the same order."""
        ...

    def run(self, run: RunHead) -> RunSummary:
        """A stored run with its phases; raises RunNotFound."""
        ...


@runtime_checkable
class Shortened(Protocol):
    """An archive that knows how many spans of a trace it deleted."""

    def missing_spans(self, trace_id: str) -> int: ...
