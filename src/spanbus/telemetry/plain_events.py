"""The short way of the plain events of our own engine: no fact is made of them, and what comes of them is the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from spanbus.memo import Memo
from spanbus.telemetry.current import fed_here
from spanbus.telemetry.dialect import PLAIN_START, PLAIN_SUCCESS, Dialect, seconds_ns
from spanbus.telemetry.facts import Rank
from spanbus.telemetry.recorder import Recorder
from spanbus.workflow.events import Event

_LONG: Final = 0
_NOTE: Final = 1
_BEGIN: Final = 2
_END: Final = 3


class _Way:
    """How all events of a type go; ``kind`` is one of the constants above."""

    __slots__ = ("final", "kind", "rank")

    def __init__(self, kind: int, rank: Rank = Rank.PHASE, final: bool = False) -> None:
        self.kind = kind
        self.rank = rank
        self.final = final


class PlainEvents:
    """Feeds a recorder with the events that need no reading."""

    def __init__(self, recorder: Recorder, dialect: Dialect) -> None:
        self._recorder = recorder
        self._dialect = dialect
        self._ways: Memo[str, _Way] = Memo(self._way, 1_000)

    def take(self, event: Event) -> bool:
        """False says that the event is not plain: nothing was done, and it has to take the long way."""
        if not event.phase or event.run_id is None or event.metadata:
            return False
        way = self._ways[event.event_type]
        if way.kind == _NOTE:
            return self._recorder.note(event)
        if way.kind == _LONG or fed_here.get() is not None:
            return False
        return self._begin(event, way) if way.kind == _BEGIN else self._end(event, way)

    def _way(self, event_type: str) -> _Way:
        if self._dialect.only_notes(event_type):
            return _Way(_NOTE)
        plan = self._dialect.of_phase(event_type)
        if plan is not None and plan.begins:
            return _Way(_BEGIN, plan.rule.rank)
        if plan is not None and plan.succeeds:
            return _Way(_END, plan.rule.rank, plan.rule.final)
        return _Way(_LONG)

    def _begin(self, event: Event, way: _Way) -> bool:
        payload = event.payload
        if not payload.keys() <= PLAIN_START:
            return False
        task_type, needs = payload.get("type"), payload.get("needs")
        if task_type is not None and type(task_type) is not str:
            return False
        if needs is None:
            return self._recorder.begin(event, way.rank, task_type, ())
        if not isinstance(needs, list | tuple):
            return False
        return self._recorder.begin(event, way.rank, task_type, [str(need) for need in cast("Sequence[object]", needs)])

    def _end(self, event: Event, way: _Way) -> bool:
        payload = event.payload
        if not payload.keys() <= PLAIN_SUCCESS or payload.get("success") is False:
            return False
        return self._recorder.end(event, way.rank, seconds_ns(payload.get("duration")) if way.final else None)
