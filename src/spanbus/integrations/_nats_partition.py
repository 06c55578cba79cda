"""One partition under observation: its correlator, how far it was read and told, and the checkpoint that says so."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from spanbus._correlation.limits import Limits
from spanbus._correlation.span_state import SpanEvent, SpanSink, SpanState
from spanbus._delivery.spooled_spans import spooled_spans
from spanbus._semantics import ErrorType, Flag
from spanbus._telemetry.journal import JournalSink
from spanbus._telemetry.metrics import MetricSink
from spanbus.integrations._nats_checkpoints import Checkpoint, Found
from spanbus.integrations._nats_clocks import Clocks
from spanbus.integrations._nats_marks import Marks
from spanbus.integrations._nats_partitions import counted_by
from spanbus.integrations._nats_reading import Open, Read, Reading

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

_LIMITS = Limits(
    event_ids_remembered=256,
    ended_runs_remembered=16,
    ended_phases_remembered=64,
    early_events=256,
)
"""There are 64 of them; doubles, and what is late for its run, are found before they reach the correlator."""


class ButNot:
    """Tells sinks of records, but not of the ends of those whose spans are there already."""

    def __init__(self, there: frozenset[int], sinks: Sequence[SpanSink]) -> None:
        self._there, self._sinks = there, sinks

    def opened(self, record: SpanState) -> None:
        for sink in self._sinks:
            sink.opened(record)

    def closed(self, record: SpanState) -> None:
        if record.span_id in self._there:
            _left(self._sinks, [record])
            return
        for sink in self._sinks:
            sink.closed(record)

    def late(self, note: SpanEvent) -> None:
        for sink in self._sinks:
            sink.late(note)


def _left(sinks: Sequence[SpanSink], records: Sequence[SpanState]) -> None:
    """These are not active here any more: another process goes on with them, or told their end."""
    for sink in sinks:
        if isinstance(sink, MetricSink):
            for record in records:
                sink.left(record)


class Partition:
    """Belongs to one thread. It tells nobody anything before :meth:`tell`."""

    def __init__(
        self,
        number: int,
        runtime: Runtime,
        marks: Marks,
        clocks: Clocks,
        *,
        created: str,
        by: str,
        found: Found | None,
        settle_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.number = number
        self._runtime, self._marks, self._clocks = runtime, marks, clocks
        self._created, self._by, self._sampler = created, by, runtime.wiring().sampler
        self._handle = runtime.replaying(lambda record: None, limits=_LIMITS)
        self._handle.correlator.tell(())
        self.reading = Reading(
            self._handle.feed, say=say, clocks=clocks, ending=self._ending, settle_s=settle_s
        )
        self.revision = found.revision if found is not None else 0
        self.high = self.stamp_ns = 0
        self._begun = False
        """Somebody of the group has read until here: what is deleted behind it was lost."""
        self.known = False
        """Whether a checkpoint of this stream was found."""
        self._reopened: dict[str, tuple[int, int]] = {}
        if found is not None and found.checkpoint.stream == created:
            self._resume(found.checkpoint)
        self._tells = False
        self._sinks: tuple[SpanSink, ...] = ()
        self._doubtful: tuple[ButNot, ...] = ()
        """In the place of the sinks until the message was told that a process was telling when it died."""
        self._durable = self.snapshot()
        self.pending: Checkpoint | None = None
        """A snapshot that waits until all that was told before it is durable."""
        self.changed = self.due = False
        """Something was read since the last snapshot; its last durable one is not written yet."""
        self.written_s = self.durable_s = self._pending_s = time.monotonic()

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.known = self._begun = True
        self.high, self.stamp_ns = checkpoint.high, checkpoint.stamp_ns
        self._reopened = dict(checkpoint.open)
        self.reading.elsewhere = OrderedDict.fromkeys(checkpoint.elsewhere)
        self.reading.ended = OrderedDict.fromkeys(checkpoint.ended)

    def begin(self, high: int) -> None:
        """Begin behind this message, where nobody has been before."""
        self.passed(high)
        self._durable = self.snapshot()

    # --- taking it ----------------------------------------------------------------------------------------------------

    @property
    def begins_at(self) -> int:
        """The first message to be heard again, unheard by others: that of the oldest open run, else the next one."""
        return min((first for _, first in self._reopened.values()), default=self.high + 1)

    @property
    def buckets(self) -> set[int]:
        """Where the events of its open runs are."""
        return {bucket for bucket, _ in self._reopened.values()}

    @property
    def told_upto(self) -> int:
        """The last message of which this host has told its sinks already."""
        return max(self.high, self._marks.of(self.number).sequence)

    def hear_again(self, message: Read) -> bool:
        """Hear a message that was told before, by whoever held the partition; False for one that tells nothing here."""
        if message.sequence <= self.high:
            if not self._reopened:
                return False
            self.reading.take(message, only=self._reopened)
            return True
        if message.sequence > self.told_upto:
            return False
        self.reading.take(message)
        self.stamp_ns = message.stamp_ns
        self.high = message.sequence
        return True

    def tell(self, first: int) -> None:
        """Tell the sinks of all that is open, and of whatever comes from now on, of a stream that begins with this message."""
        self.high = max(self.high, self.told_upto)
        for run, (bucket, begun) in self._reopened.items():
            if begun < first:  # what is gone of it cannot be heard again
                opened = self.reading.open.setdefault(run, Open(run, bucket, begun))
                opened.first, opened.unread = begun, True
        self.reading.let_go(self._marks.of(self.number).let_go_ns)
        self._reopened.clear()
        self.reading.count_anew()
        self._tells = True
        wiring = self._runtime.wiring()
        self._sinks = tuple(sink for sink in wiring.sinks if not isinstance(sink, JournalSink))
        sinks: tuple[SpanSink, ...] = self._sinks  # the stream is the journal
        if self._marks.of(self.number).telling:
            there = spooled_spans(self._runtime.settings.state_dir)
            sinks = self._doubtful = (ButNot(there, self._sinks),)
        self._handle.correlator.resume(sinks, wiring.note_sinks)
        self.changed = True

    # --- holding it ---------------------------------------------------------------------------------------------------

    def take(self, message: Read) -> None:
        """Tell of the next message."""
        self._marks.tell(self.number)
        stamp_ns = self.reading.take(message)
        self.high, self.stamp_ns, self.changed = message.sequence, message.stamp_ns, True
        self._begun = True
        self._marks.told(self.number, message.sequence, stamp_ns)
        if self._doubtful:
            self._doubtful = ()
            self._handle.correlator.tell(self._sinks, self._runtime.wiring().note_sinks)

    def settle(self, stamp_ns: int | None) -> None:
        """Tell of the ends that have settled when the stream has come to this stamp; without one, of all that wait."""
        if not self.reading.holds:
            return
        if stamp_ns is not None and not self.reading.is_due(stamp_ns):
            return
        self._marks.tell(self.number)
        let_go_ns = (
            self.reading.settle(stamp_ns) if stamp_ns is not None else self.reading.let_go(2**63)
        )
        self.changed = True
        self._marks.told(self.number, 0, let_go_ns)

    def kill(self, owners: Collection[str]) -> int:
        """End the open runs of publishers that are gone, as killed; how many there were."""
        runs = self.reading.of_owners(owners) if self.reading.open else []
        for run in runs:
            opened = self.reading.forget(run)
            if opened is not None:
                self._ending(opened)
                self._handle.correlator.end_run(opened.run_id, ErrorType.KILLED)
                self.changed = True
        return len(runs)

    def passed(self, upto: int) -> None:
        """Nothing is left up to this message that was not told."""
        self.high, self._begun = max(self.high, upto), True

    def deleted(self, upto: int, position: int) -> int:
        """Messages up to this one are gone, all of those after ``position`` unread; how many of them are counted here."""
        after = max(self.high, position)
        if upto <= after:
            return 0
        begun = self._begun
        self.passed(upto)
        self.changed = True
        if not begun:  # they were gone before anybody observed
            return 0
        for opened in self.reading.open.values():
            opened.unread = True
        return counted_by(self.number, after, upto)

    def _ending(self, opened: Open) -> None:
        if opened.unread:
            self._handle.correlator.flag_run(opened.run_id, Flag.UNREAD)
        if any(self._clocks.is_wrong(each) for each in opened.publishers):
            self._handle.correlator.flag_run(opened.run_id, Flag.CLOCK)

    # --- its checkpoint -----------------------------------------------------------------------------------------------

    def snapshot(self, *, left: bool = False) -> Checkpoint:
        """Its checkpoint as it would be now."""
        reading = self.reading
        return Checkpoint(
            self._created,
            self.high,
            self.stamp_ns,
            self._reopened
            or {run: (opened.bucket, opened.first) for run, opened in reading.open.items()},
            tuple(reading.elsewhere),
            tuple(reading.ended),
            self._by,
            left,
            self._sampler,
        )

    def prepare(self, now_s: float) -> None:
        """Take a snapshot, which is durable when all that was told until now is."""
        self.pending, self._pending_s, self.changed = self.snapshot(), now_s, False

    def arrived(self) -> None:
        """The snapshot has become durable, with all that was told before it."""
        if self.pending is not None:
            self._durable, self.durable_s = self.pending, self._pending_s
            self.pending, self.due = None, True

    def document(self, *, left: bool = False) -> bytes:
        """The checkpoint to be written: the last durable one, and where nothing was told since, how far it is now."""
        if self._tells and not self.changed and self.pending is None:
            self._durable, self.durable_s = self.snapshot(), time.monotonic()
        return self._durable._replace(left=left).encode()

    def written(self, revision: int, now_s: float) -> None:
        """The checkpoint was written."""
        self.revision, self.written_s, self.due = revision, now_s, False

    def leave(self) -> None:
        """Leave what is open to the observer that goes on."""
        correlator = self._handle.correlator
        correlator.tell(())
        if self._tells:
            _left(self._sinks, correlator.open_records())
        self._handle.detach()
        self._marks.release(self.number)
