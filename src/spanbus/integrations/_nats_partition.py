"""One observed partition: its correlator, progress and checkpoint."""

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
from spanbus.integrations._nats_reading import OpenRun, Read, Reading

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

_LIMITS = Limits(
    event_ids_remembered=256,
    ended_runs_remembered=16,
    ended_phases_remembered=64,
    early_events=256,
)
"""Small limits, because there are 64 partitions; duplicates and late events are removed before the correlator."""


class SkipSpooled:
    """Sink that skips the ends of records whose spans are already in the spool."""

    def __init__(self, there: frozenset[int], sinks: Sequence[SpanSink]) -> None:
        self._spooled, self._sinks = there, sinks

    def opened(self, record: SpanState) -> None:
        for sink in self._sinks:
            sink.opened(record)

    def closed(self, record: SpanState) -> None:
        if record.span_id in self._spooled:
            _stop_counting(self._sinks, [record])
            return
        for sink in self._sinks:
            sink.closed(record)

    def late(self, note: SpanEvent) -> None:
        for sink in self._sinks:
            sink.late(note)


def _stop_counting(sinks: Sequence[SpanSink], records: Sequence[SpanState]) -> None:
    """Stop counting records as active here: another process goes on with them, or reported their end."""
    for sink in sinks:
        if isinstance(sink, MetricSink):
            for record in records:
                sink.left(record)


class Partition:
    """One observed partition; used in one thread. It feeds no sinks before :meth:`resume`."""

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
        self._was_read = False
        """The group has read it before, so messages deleted from here on are lost."""
        self.known = False
        """A checkpoint of this stream was found."""
        self._reopened: dict[str, tuple[int, int]] = {}
        if found is not None and found.checkpoint.stream == created:
            self._resume(found.checkpoint)
        self._reports = False
        self._sinks: tuple[SpanSink, ...] = ()
        self._doubtful: tuple[SkipSpooled, ...] = ()
        """Sinks until the message is reported that a dead process was reporting."""
        self._durable = self.snapshot()
        self.pending: Checkpoint | None = None
        """Snapshot that waits until all telemetry before it is durable."""
        self.changed = self.due = False
        """Messages were read since the last snapshot; the last durable snapshot is not written yet."""
        self.written_s = self.durable_s = self._pending_s = time.monotonic()

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.known = self._was_read = True
        self.high, self.stamp_ns = checkpoint.high, checkpoint.stamp_ns
        self._reopened = dict(checkpoint.open)
        self.reading.elsewhere = OrderedDict.fromkeys(checkpoint.elsewhere)
        self.reading.ended = OrderedDict.fromkeys(checkpoint.ended)

    def start_after(self, high: int) -> None:
        """Start behind this message, without a checkpoint."""
        self.passed(high)
        self._durable = self.snapshot()

    # --- taking it ----------------------------------------------------------------------------------------------------

    @property
    def replay_from(self) -> int:
        """First message to replay: the start of the oldest open run, else the next message."""
        return min((first for _, first in self._reopened.values()), default=self.high + 1)

    @property
    def buckets(self) -> set[int]:
        """Buckets with the events of open runs."""
        return {bucket for bucket, _ in self._reopened.values()}

    @property
    def reported_upto(self) -> int:
        """Last message that this host has already reported to its sinks."""
        return max(self.high, self._marks.of(self.number).sequence)

    def replay(self, message: Read) -> bool:
        """Replay a message that was reported before, without sinks; False if it is not needed."""
        if message.sequence <= self.high:
            if not self._reopened:
                return False
            self.reading.take(message, only=self._reopened)
            return True
        if message.sequence > self.reported_upto:
            return False
        self.reading.take(message)
        self.stamp_ns = message.stamp_ns
        self.high = message.sequence
        return True

    def resume(self, first: int) -> None:
        """Report all open records to the sinks, and everything from now on. ``first`` is the first message of the stream."""
        self.high = max(self.high, self.reported_upto)
        for run, (bucket, begun) in self._reopened.items():
            if begun < first:  # its first messages were deleted
                opened = self.reading.open.setdefault(run, OpenRun(run, bucket, begun))
                opened.first, opened.unread = begun, True
        self.reading.release_ends(self._marks.of(self.number).released_ns)
        self._reopened.clear()
        self.reading.reset_counts()
        self._reports = True
        wiring = self._runtime.wiring()
        self._sinks = tuple(sink for sink in wiring.sinks if not isinstance(sink, JournalSink))
        sinks: tuple[SpanSink, ...] = self._sinks  # the stream is the journal
        if self._marks.of(self.number).reporting:
            there = spooled_spans(self._runtime.settings.state_dir)
            sinks = self._doubtful = (SkipSpooled(there, self._sinks),)
        self._handle.correlator.resume(sinks, wiring.note_sinks)
        self.changed = True

    # --- holding it ---------------------------------------------------------------------------------------------------

    def take(self, message: Read) -> None:
        """Report the next message."""
        self._marks.begin_report(self.number)
        stamp_ns = self.reading.take(message)
        self.high, self.stamp_ns, self.changed = message.sequence, message.stamp_ns, True
        self._was_read = True
        self._marks.reported(self.number, message.sequence, stamp_ns)
        if self._doubtful:
            self._doubtful = ()
            self._handle.correlator.tell(self._sinks, self._runtime.wiring().note_sinks)

    def settle(self, stamp_ns: int | None) -> None:
        """Report the ends that have settled by this stamp; all waiting ends without one."""
        if not self.reading.holds:
            return
        if stamp_ns is not None and not self.reading.is_due(stamp_ns):
            return
        self._marks.begin_report(self.number)
        released_ns = (
            self.reading.settle(stamp_ns)
            if stamp_ns is not None
            else self.reading.release_ends(2**63)
        )
        self.changed = True
        self._marks.reported(self.number, 0, released_ns)

    def kill(self, owners: Collection[str]) -> int:
        """End the open runs of dead publishers as killed; return their number."""
        runs = self.reading.of_owners(owners) if self.reading.open else []
        for run in runs:
            opened = self.reading.forget(run)
            if opened is not None:
                self._ending(opened)
                self._handle.correlator.end_run(opened.run_id, ErrorType.KILLED)
                self.changed = True
        return len(runs)

    def passed(self, upto: int) -> None:
        """Mark everything up to this message as reported."""
        self.high, self._was_read = max(self.high, upto), True

    def deleted(self, upto: int, position: int) -> int:
        """Handle the deletion of messages up to this one, unread after ``position``; return the number counted here."""
        after = max(self.high, position)
        if upto <= after:
            return 0
        begun = self._was_read
        self.passed(upto)
        self.changed = True
        if not begun:  # deleted before the group observed
            return 0
        for opened in self.reading.open.values():
            opened.unread = True
        return counted_by(self.number, after, upto)

    def _ending(self, opened: OpenRun) -> None:
        if opened.unread:
            self._handle.correlator.flag_run(opened.run_id, Flag.UNREAD)
        if any(self._clocks.is_wrong(each) for each in opened.publishers):
            self._handle.correlator.flag_run(opened.run_id, Flag.CLOCK)

    # --- its checkpoint -----------------------------------------------------------------------------------------------

    def snapshot(self, *, left: bool = False) -> Checkpoint:
        """Checkpoint of the current progress."""
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
        """Take a snapshot, which becomes durable with all telemetry reported until now."""
        self.pending, self._pending_s, self.changed = self.snapshot(), now_s, False

    def arrived(self) -> None:
        """Mark the pending snapshot as durable."""
        if self.pending is not None:
            self._durable, self.durable_s = self.pending, self._pending_s
            self.pending, self.due = None, True

    def document(self, *, left: bool = False) -> bytes:
        """Checkpoint to write: the last durable one, or the current progress if nothing was reported since."""
        if self._reports and not self.changed and self.pending is None:
            self._durable, self.durable_s = self.snapshot(), time.monotonic()
        return self._durable._replace(left=left).encode()

    def written(self, revision: int, now_s: float) -> None:
        """Mark the checkpoint as written."""
        self.revision, self.written_s, self.due = revision, now_s, False

    def leave(self) -> None:
        """Release the partition; the next observer goes on with its open runs."""
        correlator = self._handle.correlator
        correlator.tell(())
        if self._reports:
            _stop_counting(self._sinks, correlator.open_records())
        self._handle.detach()
        self._marks.release(self.number)
