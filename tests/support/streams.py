"""A stream of foreign events through a reader and a correlator, with the runs that ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spanbus._correlation.correlator import Correlator, CorrelatorState, Limits
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._reading.dialect import Dialect
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader

START_NS = 1_790_000_000_000_000_000
SECOND = 1_000_000_000


class Stream:
    """A reader and a correlator that are fed with events, one second apart by default."""

    def __init__(
        self,
        dialect: str | Path | Mapping[str, object] | Dialect = "generic",
        limits: Limits | None = None,
    ) -> None:
        self.said: list[str] = []
        self.reader = Reader(load(dialect), warn=self.said.append)
        self.runs: list[SpanState] = []
        self.errors: list[Exception] = []
        self.late: list[str] = []
        self.correlator = Correlator(
            [_Late(self.late)],
            policy=self.reader.dialect.policy,
            limits=limits,
            on_run_ended=self.runs.append,
            on_sink_error=self.errors.append,
        )
        self.now_ns = START_NS

    def say(
        self,
        event_type: str,
        payload: Mapping[str, object] | None = None,
        *,
        after_s: float = 1.0,
        task: str | None = None,
        within: SpanState | None = None,
        **fields: object,
    ) -> SpanState | None:
        """Feed an event with a type and a payload, by default without an id."""
        self.now_ns += round(after_s * SECOND)
        event = {"event_type": event_type, "at_ns": self.now_ns, "payload": payload or {}, **fields}
        return self.correlator.apply(self.reader.read(event), within, task)

    def hear(self, event: object) -> SpanState | None:
        """Feed an event of any shape."""
        return self.correlator.apply(self.reader.read(event))

    def end(self) -> CorrelatorState:
        """End the stream, and return the counts."""
        self.correlator.close()
        assert self.errors == []
        return self.correlator.state()

    def told(self) -> list[tuple[str, str, list[tuple[str, str, int]]]]:
        """Return name and result of each ended run, with name, result and attempts of its phases."""
        return [
            (
                run.name,
                str(run.result),
                [(phase.name, str(phase.result), phase.attempts) for phase in run.children],
            )
            for run in self.runs
        ]


class _Late:
    def __init__(self, late: list[str]) -> None:
        self._late = late

    def opened(self, record: SpanState) -> None:
        assert record.result is None

    def closed(self, record: SpanState) -> None:
        assert record.result is not None
        assert record.parent is None or record.parent.result is None

    def late(self, note: SpanEvent) -> None:
        self._late.append(note.name)
