"""Reading of one partition: feeds lines to a correlator, and holds the ends of runs until they have settled.

Time is the stream's: an end is fed when a message was read that is younger by the settle time; only at the head the clock
decides. A backlog therefore gives the same spans as reading live.
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
"""Limit of open runs, as in the correlator, which drops the oldest run above it."""
RUNS_ELSEWHERE: Final = 2_048
ENDS_WAITING: Final = 128
"""Limit of waiting ends; above it (4,000 runs a second in all partitions) the oldest is fed before it has settled."""
RUNS_REMEMBERED: Final = 256
"""Remembered ended runs of one partition."""
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


class Read(NamedTuple):
    """One message of the stream: number, server's stamp (Unix nanoseconds), lines, partition and bucket, sender and its time."""

    sequence: int
    stamp_ns: int
    body: bytes
    partition: int = 0
    bucket: int = 0
    publisher: str = ""
    sent_ns: int = 0


class Counts(NamedTuple):
    """Counts of lines: fed, with telemetry made elsewhere, too late for their run, duplicates, not an event."""

    fed: int = 0
    elsewhere: int = 0
    late: int = 0
    doubled: int = 0
    broken: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))


class WaitingEnd(NamedTuple):
    """End of a run that waits to settle."""

    line: Mapping[str, object]
    stamp_ns: int


class OpenRun:
    """An open run: bucket and first message, owner, publishers of its events, and ids of its events."""

    __slots__ = ("bucket", "first", "owner", "publishers", "run_id", "seen", "unread")

    def __init__(self, run_id: str, bucket: int, first: int) -> None:
        self.run_id, self.bucket, self.first = run_id, bucket, first
        self.owner = ""
        self.unread = False
        """Some of its events may have been deleted unread."""
        self.publishers: set[str] = set()
        self.seen = Dedup(_IDS_REMEMBERED)


class Reading:
    """Feeds the lines of messages in order, and tracks the open runs. Not thread-safe.

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
        """By the names that checkpoints have for runs."""
        self.elsewhere: OrderedDict[str, None] = OrderedDict()
        """Open runs whose own process makes their telemetry."""
        self.ended: OrderedDict[str, None] = OrderedDict()
        """The runs that ended last: what comes of them now is late."""
        self._held: OrderedDict[str, WaitingEnd] = OrderedDict()
        self._fed = self._elsewhere_lines = self._late = self._doubled = self._broken = 0
        self._warned = False

    @property
    def counts(self) -> Counts:
        return Counts(self._fed, self._elsewhere_lines, self._late, self._doubled, self._broken)

    def reset_counts(self) -> None:
        """Reset the counts after a replay, which the first reader has counted."""
        self._fed = self._elsewhere_lines = self._late = self._doubled = self._broken = 0

    @property
    def holds(self) -> bool:
        """Whether an end waits."""
        return bool(self._held)

    def take(self, message: Read, *, only: Collection[str] | None = None) -> int:
        """Feed one message, or ``only`` its lines of these runs; return the stamp of the last end that it released."""
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

    def _take(self, run: str, run_id: str, line: Mapping[str, object], message: Read) -> None:
        if not run:  # it belongs to no run
            self._feed_line(line)
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
        if event_id is not None and opened.seen.is_double(str(event_id), str(kind)):
            self._doubled += 1
            return
        if kind == _STARTED:
            opened.owner = _owner(event_id, message.publisher)
        if len(opened.publishers) < _PUBLISHERS_OF_RUN:
            opened.publishers.add(_publisher(message, line))
        if ends:
            self._held.setdefault(run, WaitingEnd(line, message.stamp_ns))
            return
        self._feed_line(line)

    def _feed_line(self, line: Mapping[str, object]) -> None:
        self._fed += 1
        self._feed(line)

    def release_ends(self, until_ns: int) -> int:
        """Feed the waiting ends stamped up to ``until_ns``; return the last one's stamp, 0 for none."""
        last_ns = 0
        for run in [run for run, held in self._held.items() if held.stamp_ns <= until_ns]:
            held = self._held.pop(run)
            opened = self.open.pop(run, None)
            if opened is not None:
                self._ending(opened)
            self._feed_line(held.line)
            self._remember(run)
            last_ns = max(last_ns, held.stamp_ns)
        return last_ns

    def is_due(self, stamp_ns: int) -> bool:
        """Whether an end has settled by this stamp of the stream."""
        until_ns = stamp_ns - self._settle_ns
        return any(held.stamp_ns <= until_ns for held in self._held.values())

    def settle(self, stamp_ns: int) -> int:
        """Feed the ends that have settled by this stamp of the stream; returns as :meth:`release_ends`."""
        return self.release_ends(stamp_ns - self._settle_ns)

    def of_owners(self, owners: Collection[str]) -> list[str]:
        """Open runs announced by these publishers, without those whose end waits."""
        return [
            run
            for run, opened in self.open.items()
            if opened.owner in owners and run not in self._held
        ]

    def forget(self, run: str) -> OpenRun | None:
        """Remove an open run that was ended otherwise; its further events are late."""
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
        if not self._warned:
            self._warned = True
            self._say("a line of the stream is no event; it and others like it are counted")
        return None


def _kind_of(line: Mapping[str, object]) -> object:
    return line.get("event_type") or line.get("type")


def key_of(run_id: object) -> str:
    """Id of a run, or its hash if it is long, so that checkpoints have a bounded size. Empty for none."""
    if not isinstance(run_id, str | int | float) or isinstance(run_id, bool):
        return ""
    run = str(run_id)
    if len(json.dumps(run)) <= _KEY_CHARS:
        return run
    return sha256(run.encode("utf-8", "surrogatepass")).hexdigest()


def _owner(event_id: object, publisher: str) -> str:
    """Publisher that announced a run; for our own processes the prefix of the event ids, even if another process sent them."""
    ours = _OUR_ID.fullmatch(event_id) if isinstance(event_id, str) else None
    return ours[1] if ours is not None else publisher


def _publisher(message: Read, line: Mapping[str, object]) -> str:
    """Publisher whose clock made the times of a message: its sender, else the source in its events."""
    return message.publisher or str(line.get("source") or "")[:_SOURCE_CHARS]


def measure_clock(clocks: Clocks, message: Read) -> None:
    """Measure a publisher's clock by a message whose last line is an event."""
    try:
        line: object = json.loads(message.body.rpartition(b"\n")[2])
    except (ValueError, RecursionError):
        return
    if isinstance(line, dict):
        _measure_clock(clocks, message, cast("Mapping[str, object]", line))


def _measure_clock(clocks: Clocks, message: Read, line: Mapping[str, object]) -> None:
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
