"""Reader of one partition: feeds events to a correlator, and holds back ends of runs until late events have arrived.

A held end is released when the stream has advanced by the settle time, so a backlog gives the same spans as reading
live. Only at the head of the stream the local clock decides.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Final, cast

from spanbus._correlation.dedup import Dedup
from spanbus._correlation.limits import Limits
from spanbus._named_tuple import NamedTuple
from spanbus._workflow.events import WorkflowEvent
from spanbus.integrations._nats_clocks import Clocks

SETTLE_S: Final = 2.0
RUNS_OPEN: Final = Limits().open_runs
"""Limit of open runs; beyond it the correlator has dropped the oldest one."""
RUNS_ELSEWHERE: Final = 2_048
ENDS_WAITING: Final = 128
"""Limit of held ends; beyond it the oldest is released early. Reached at 4,000 runs a second in all partitions."""
RUNS_REMEMBERED: Final = 256
"""Recently ended runs remembered in one partition."""
_IDS_REMEMBERED: Final = 8_192
_PUBLISHERS_OF_RUN: Final = 64
_KEY_CHARS: Final = 100
_SOURCE_CHARS: Final = 64
_OUR_ID: Final = re.compile(r"([0-9a-f]{12}-[0-9a-f]{8})-[0-9a-f]{10}")
_STARTED: Final = str(WorkflowEvent.WORKFLOW_STARTED)
_ENDS: Final = frozenset(
    str(each)
    for each in (
        WorkflowEvent.WORKFLOW_COMPLETED,
        WorkflowEvent.WORKFLOW_FAILED,
        WorkflowEvent.WORKFLOW_INTERRUPTED,
    )
)


class StreamMessage(NamedTuple):
    """A message of the stream. ``stamp_ns`` is the server's timestamp (Unix nanoseconds), ``sent_ns`` the publisher's or 0."""

    sequence: int
    stamp_ns: int
    body: bytes
    partition: int = 0
    bucket: int = 0
    publisher: str = ""
    sent_ns: int = 0


class Counts(NamedTuple):
    """Counts of lines: fed; of runs whose own process makes their telemetry (``elsewhere``); late for their run; duplicates;
    not an event (``broken``).
    """

    fed: int = 0
    elsewhere: int = 0
    late: int = 0
    doubled: int = 0
    broken: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))


class HeldEnd(NamedTuple):
    """An end of a run that is held back."""

    line: Mapping[str, object]
    stamp_ns: int


class OpenRun:
    """An open run: its bucket and first message, the publisher that started it, all its publishers, its event ids."""

    __slots__ = ("bucket", "event_ids", "first", "owner", "publishers", "run_id", "unread")

    def __init__(self, run_id: str, bucket: int, first: int) -> None:
        self.run_id, self.bucket, self.first = run_id, bucket, first
        self.owner = ""
        self.unread = False
        """Events of the run may have been deleted before they were read."""
        self.publishers: set[str] = set()
        self.event_ids = Dedup(_IDS_REMEMBERED)


class PartitionReader:
    """Feeds the events of messages in order and tracks the open runs. Not thread-safe.

    ``ending`` is called with an open run before its end is fed.
    """

    def __init__(
        self,
        feed: Callable[[Mapping[str, object]], None],
        *,
        say: Callable[[str], None],
        clocks: Clocks | None = None,
        ending: Callable[[OpenRun], None] = lambda run: None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._feed, self._say, self._ending = feed, say, ending
        self._clocks = clocks or Clocks()
        self._settle_ns = int(settle_s * 1e9)
        self.open: OrderedDict[str, OpenRun] = OrderedDict()
        """By :func:`key_of` the run id, as in checkpoints."""
        self.elsewhere: OrderedDict[str, None] = OrderedDict()
        """Open runs whose own process makes their telemetry."""
        self.ended: OrderedDict[str, None] = OrderedDict()
        """Recently ended runs; further events of them are late."""
        self._held: OrderedDict[str, HeldEnd] = OrderedDict()
        self._fed = self._elsewhere_lines = self._late = self._doubled = self._broken = 0
        self._told = False

    @property
    def counts(self) -> Counts:
        return Counts(self._fed, self._elsewhere_lines, self._late, self._doubled, self._broken)

    def reset_counts(self) -> None:
        """Reset the counts after a replay: those lines were counted when they were first read."""
        self._fed = self._elsewhere_lines = self._late = self._doubled = self._broken = 0

    @property
    def holds(self) -> bool:
        """Whether an end is held back."""
        return bool(self._held)

    def take(self, message: StreamMessage, *, only: Collection[str] | None = None) -> int:
        """Feed one message; with ``only`` just the lines of these runs. Returns the timestamp of the last released end, or 0."""
        released_ns = self.release_ends(message.stamp_ns - self._settle_ns) if self._held else 0
        line: Mapping[str, object] | None = None
        for text in message.body.split(b"\n"):
            found = self._line(text)
            if found is None:
                continue
            line = found
            run_id = line.get("run_id") or line.get("runid")
            run = key_of(run_id)
            if only is None or run in only:
                self._take(run, str(run_id), line, message)
        while len(self._held) > ENDS_WAITING:
            released_ns = max(
                released_ns, self.release_ends(next(iter(self._held.values())).stamp_ns)
            )
        if line is not None and only is None:
            _measure_clock(self._clocks, message, line)
        return released_ns

    def _take(
        self, run: str, run_id: str, line: Mapping[str, object], message: StreamMessage
    ) -> None:
        if not run:  # an event without a run id
            self._tell(line)
            return
        kind = _kind_of(line)
        ends = kind in _ENDS and not line.get("phase")
        if run in self.elsewhere or (kind == _STARTED and _made_elsewhere(line)):
            self._elsewhere_lines += 1
            self.elsewhere[run] = None
            _bound(self.elsewhere, RUNS_ELSEWHERE)
            if ends:
                self.elsewhere.pop(run, None)
                self._remember(run)
            return
        if run in self.ended:
            self._late += 1
            return
        opened = self.open.get(run)
        if opened is None:
            while len(self.open) >= RUNS_OPEN:
                self.forget(next(iter(self.open)))
            opened = self.open[run] = OpenRun(run_id, message.bucket, message.sequence)
        event_id = line.get("event_id") or line.get("id")
        if event_id is not None and opened.event_ids.is_double(str(event_id), str(kind)):
            self._doubled += 1
            return
        if kind == _STARTED:
            opened.owner = _owner(event_id, message.publisher)
        if len(opened.publishers) < _PUBLISHERS_OF_RUN:
            opened.publishers.add(_publisher(message, line))
        if ends:
            self._held.setdefault(run, HeldEnd(line, message.stamp_ns))
            return
        self._tell(line)

    def _tell(self, line: Mapping[str, object]) -> None:
        self._fed += 1
        self._feed(line)

    def release_ends(self, until_ns: int) -> int:
        """Feed the held ends with a timestamp up to ``until_ns``. Returns the last timestamp, 0 for none."""
        last_ns = 0
        for run in [run for run, held in self._held.items() if held.stamp_ns <= until_ns]:
            held = self._held.pop(run)
            opened = self.open.pop(run, None)
            if opened is not None:
                self._ending(opened)
            self._tell(held.line)
            self._remember(run)
            last_ns = max(last_ns, held.stamp_ns)
        return last_ns

    def is_due(self, stamp_ns: int) -> bool:
        """Whether a held end has settled at this stream time."""
        until_ns = stamp_ns - self._settle_ns
        return any(held.stamp_ns <= until_ns for held in self._held.values())

    def settle(self, stamp_ns: int) -> int:
        """Release the ends that have settled at this stream time; see :meth:`release_ends`."""
        return self.release_ends(stamp_ns - self._settle_ns)

    def announced_by(self, owners: Collection[str]) -> list[str]:
        """Return the open runs that these publishers started, except those with a held end."""
        return [
            run
            for run, opened in self.open.items()
            if opened.owner in owners and run not in self._held
        ]

    def forget(self, run: str) -> OpenRun | None:
        """Close an open run without an end event. Further events of it are late."""
        self._remember(run)
        self._held.pop(run, None)
        return self.open.pop(run, None)

    def _remember(self, run: str) -> None:
        self.ended[run] = None
        _bound(self.ended, RUNS_REMEMBERED)

    def _line(self, text: bytes) -> Mapping[str, object] | None:
        try:
            line: object = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict):
            found = cast("Mapping[str, object]", line)
            if isinstance(_kind_of(found), str):
                return found
        self._broken += 1
        if not self._told:
            self._told = True
            self._say("a line of the stream is no event; it and others like it are counted")
        return None


def _kind_of(line: Mapping[str, object]) -> object:
    return line.get("event_type") or line.get("type")


def key_of(run_id: object) -> str:
    """Return the run id, or its hash if it is long, so that checkpoints have bounded size. Empty if there is none."""
    if not isinstance(run_id, str | int | float) or isinstance(run_id, bool):
        return ""
    run = str(run_id)
    if len(json.dumps(run)) <= _KEY_CHARS:
        return run
    return sha256(run.encode("utf-8", "surrogatepass")).hexdigest()


def _owner(event_id: object, publisher: str) -> str:
    """Return the publisher of a start event. For our own processes it is the prefix of the event id, which stays the same if
    another process sends the event.
    """
    ours = _OUR_ID.fullmatch(event_id) if isinstance(event_id, str) else None
    return ours[1] if ours is not None else publisher


def _publisher(message: StreamMessage, line: Mapping[str, object]) -> str:
    """Return the sender of a message, otherwise the source that its event names. Identifies the clock of its times."""
    return message.publisher or str(line.get("source") or "")[:_SOURCE_CHARS]


def measure_clock(clocks: Clocks, message: StreamMessage) -> None:
    """Record the clock offset of a message's publisher, if its last line is an event."""
    try:
        line: object = json.loads(message.body.rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return
    if isinstance(line, dict):
        _measure_clock(clocks, message, cast("Mapping[str, object]", line))


def _measure_clock(clocks: Clocks, message: StreamMessage, line: Mapping[str, object]) -> None:
    publisher = _publisher(message, line)
    if not publisher:
        return
    at_ns = message.sent_ns or _at_ns(line)
    if at_ns is not None:
        clocks.record(publisher, message.stamp_ns, at_ns, sent=bool(message.sent_ns))


def _at_ns(line: Mapping[str, object]) -> int | None:
    at_ns, at = line.get("at_ns"), line.get("time")
    if isinstance(at_ns, int):
        return at_ns if 0 < at_ns < 2**63 else None
    try:
        when = datetime.fromisoformat(at) if isinstance(at, str) else None
        found = int(when.timestamp() * 1e9) if when is not None and when.tzinfo else None
    except (ValueError, OverflowError):
        return None
    return found


def _made_elsewhere(line: Mapping[str, object]) -> bool:
    metadata = line.get("metadata")
    if not isinstance(metadata, Mapping):
        return False
    return cast("Mapping[str, object]", metadata).get("telemetry") == "here"


def _bound(runs: OrderedDict[str, None], most: int) -> None:
    while len(runs) > most:
        runs.popitem(last=False)
