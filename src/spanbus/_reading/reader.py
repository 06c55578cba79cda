"""The reader of one bus: turns each event into a fact.

It holds the state between events: the names of tasks that are sent only once, and the offset between the wall clock and
the monotonic clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from spanbus._reading.dialect import Dialect
from spanbus._reading.facts import ENGINE_HINTS, Fact, Noted, Rank, SpanEvent, Verb
from spanbus._reading.read import Raw, read, read_own
from spanbus._workflow.events import Event

logger = logging.getLogger("spanbus")

_EVENT: Final = Verb.EVENT  # saves the lookup of the member
_START: Final = Verb.START
_RUN: Final = Rank.RUN
_NAMES_CACHED: Final = 16_384
_MAX_WARNINGS: Final = 20
_DISAGREEMENT_NS: Final = 1_000_000_000
_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


_steady_ns: Final[Callable[[], int]] = (
    partial(time.clock_gettime_ns, _BOOT_TIME) if _BOOT_TIME is not None else time.monotonic_ns
)
"""Monotonic clock that includes suspend time, where the platform has one."""


def _warn(text: str) -> None:
    logger.warning("%s", text)


class Reader:
    """Reads events by one dialect. ``warn`` receives each distinct warning once, at most 20."""

    def __init__(self, dialect: Dialect, *, warn: Callable[[str], None] = _warn) -> None:
        self.dialect = dialect
        self._warn = warn
        self._keys = dialect.keys
        self._remembers = dialect.names.memory is not None
        self._phase_meanings = dialect.phase_meanings
        self._fact_of_meaning = dialect.fact_of_meaning
        self._names: dict[str, str] = {}
        self._warned: set[str] = set()
        self._anchor_ns = 0
        """Unix time at zero of the monotonic clock."""
        self._anchor()
        self._last_ns = 0
        self.odd_times = 0
        """Number of unreadable timestamps."""
        self.moved_times = 0
        """Number of live timestamps replaced because they disagreed with the monotonic clock."""

    def read(self, event: object, *, live: bool = False) -> Fact:
        """Return the fact that ``event`` states.

        ``live``: the event happens now, so a timestamp that is more than a second off the monotonic clock is replaced.
        Raises ``ValueError`` when the event has no type.
        """
        if type(event) is Event:
            kind, event_id, at_ns, payload, source, run_id, name, attempt, _, _, metadata = event
            if name and run_id is not None and not metadata:
                try:
                    meaning = self._phase_meanings[kind]
                except KeyError:
                    meaning = self.dialect.phase_meaning(kind)
                if meaning is not None:
                    span_event = SpanEvent(
                        meaning.event_type, at_ns, event_id, source, payload, attempt or 1
                    )
                    if meaning.verb is _EVENT:
                        return Noted(span_event, meaning.rank, name, run_id, ENGINE_HINTS)
                    return self._fact_of_meaning(
                        meaning, span_event, name, run_id, ENGINE_HINTS, True
                    )
            return self.dialect.fact(read_own(event))
        now_ns = self._anchor_ns + _steady_ns() if live else None
        after_ns = now_ns if now_ns is not None else self._last_ns
        return self.raw(read(event, self._keys, after_ns=after_ns, now_ns=now_ns), now_ns)

    def raw(self, raw: Raw, now_ns: int | None = None) -> Fact:
        """Return the fact of an event that was already read; ``now_ns`` is the current time for a live event."""
        original = raw
        if now_ns is not None:
            if (
                not raw.timed
                or raw.odd_time is not None
                or not -_DISAGREEMENT_NS <= raw.at_ns - now_ns <= _DISAGREEMENT_NS
            ):
                raw = self._at_clock_time(raw, now_ns)
        elif raw.odd_time is not None:
            self._count_unreadable_time(raw.odd_time)
        if raw.timed:
            self._last_ns = raw.at_ns
        fact = self.dialect.fact(raw)
        if now_ns is not None and fact.rank is _RUN and fact.verb is _START:
            self._reanchor_if_clock_was_set(fact, original)
        if self._remembers:
            self._remember(fact)
        return fact

    def _anchor(self) -> None:
        self._anchor_ns = max(time.time_ns(), 1) - _steady_ns()

    def _reanchor_if_clock_was_set(self, fact: Fact, raw: Raw) -> None:
        """Use the new wall-clock time for a run that starts after the clock was set."""
        if abs(time.time_ns() - self._anchor_ns - _steady_ns()) > _DISAGREEMENT_NS:
            self._anchor()
            corrected = self._at_clock_time(raw, self._anchor_ns + _steady_ns())
            fact.event.at_ns = corrected.at_ns
            hints = fact.hints = fact.hints.copy()
            hints.odd_time = corrected.odd_time is not None

    def _at_clock_time(self, raw: Raw, now_ns: int) -> Raw:
        """Return a live event with the time of the monotonic clock, if its own is missing, unreadable or off."""
        if raw.odd_time is not None:
            self._count_unreadable_time(raw.odd_time)
        elif not raw.timed:
            if raw.at_ns != now_ns:
                raw = raw.copy()
                raw.at_ns = now_ns
            return raw
        elif abs(raw.at_ns - now_ns) <= _DISAGREEMENT_NS:
            return raw
        self.moved_times += 1
        raw = raw.copy()
        raw.at_ns, raw.odd_time = now_ns, raw.odd_time or ""
        return raw

    def _count_unreadable_time(self, text: str) -> None:
        self.odd_times += 1
        if text not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(text)
            self._warn(
                f"cannot parse the time {text!r}; the time of arrival is used instead. Times are numbers (s, ms, µs, ns), "
                "ISO 8601 or RFC 2822"
            )

    def _remember(self, fact: Fact) -> None:
        """Remember the name from a task's first event, and apply it to later events of the task."""
        task = fact.hints.task
        if task is None or fact.rank is Rank.RUN:
            return
        known = self._names.get(task)
        if known is not None and (fact.name is None or not fact.named_by_payload):
            fact.name = known
        elif fact.name is not None and known is None and fact.named_by_payload:
            if len(self._names) >= _NAMES_CACHED:
                del self._names[next(iter(self._names))]
            self._names[task] = fact.name
