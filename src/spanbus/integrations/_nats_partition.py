"""One partition held by an observer: its correlator, its progress and its checkpoint."""

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
from spanbus.integrations._nats_partition_reader import OpenRun, PartitionReader, StreamMessage
from spanbus.integrations._nats_partitions import counted_by
from spanbus.integrations._nats_progress_file import ProgressFile

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

_LIMITS = Limits(
    event_ids_remembered=256,
    ended_runs_remembered=16,
    ended_phases_remembered=64,
    early_events=256,
)
"""Small, because there are 64 partitions, and duplicates and late events are dropped before they reach the correlator."""


class SkipStoredSpans:
    """A sink that forwards to others, except for the ends of spans that are already in the spool."""

    def __init__(self, span_ids: frozenset[int], sinks: Sequence[SpanSink]) -> None:
        self._span_ids, self._sinks = span_ids, sinks

    def opened(self, record: SpanState) -> None:
        for sink in self._sinks:
            sink.opened(record)

    def closed(self, record: SpanState) -> None:
        if record.span_id in self._span_ids:
            _forget_active(self._sinks, [record])
            return
        for sink in self._sinks:
            sink.closed(record)

    def late(self, note: SpanEvent) -> None:
        for sink in self._sinks:
            sink.late(note)


def _forget_active(sinks: Sequence[SpanSink], records: Sequence[SpanState]) -> None:
    """Remove open spans from the metrics of active work: another process continues them, or has ended them."""
    for sink in sinks:
        if isinstance(sink, MetricSink):
            for record in records:
                sink.left(record)


class Partition:
    """A partition of the stream. Not thread-safe. The sinks are not called before :meth:`attach_sinks`."""

    def __init__(
        self,
        number: int,
        runtime: Runtime,
        progress: ProgressFile,
        clocks: Clocks,
        *,
        created: str,
        by: str,
        found: Found | None,
        settle_s: float,
        say: Callable[[str], None],
    ) -> None:
        self.number = number
        self._runtime, self._progress, self._clocks = runtime, progress, clocks
        self._created, self._by, self._sampler = created, by, runtime.wiring().sampler
        self._handle = runtime.replaying(lambda record: None, limits=_LIMITS)
        self._handle.correlator.tell(())
        self.reading = PartitionReader(
            self._handle.feed, say=say, clocks=clocks, ending=self._ending, settle_s=settle_s
        )
        self.revision = found.revision if found is not None else 0
        self.high = self.stamp_ns = 0
        self._begun = False
        """The group has read up to here, so messages deleted after this point count as lost."""
        self.known = False
        """Whether there is a checkpoint of this stream."""
        self._reopened: dict[str, tuple[int, int]] = {}
        if found is not None and found.checkpoint.stream == created:
            self._resume(found.checkpoint)
        self._has_sinks = False
        self._sinks: tuple[SpanSink, ...] = ()
        self._doubtful: tuple[SkipStoredSpans, ...] = ()
        """Replacement of the sinks until the message is processed during which the previous process died."""
        self._durable = self.snapshot()
        self.pending: Checkpoint | None = None
        """A snapshot that becomes valid when all telemetry produced before it is durable."""
        self.changed = self.due = False
        """``changed``: messages were read since the last snapshot. ``due``: the last durable snapshot is not written yet."""
        self.written_s = self.durable_s = self._pending_s = time.monotonic()

    def _resume(self, checkpoint: Checkpoint) -> None:
        self.known = self._begun = True
        self.high, self.stamp_ns = checkpoint.high, checkpoint.stamp_ns
        self._reopened = dict(checkpoint.open)
        self.reading.elsewhere = OrderedDict.fromkeys(checkpoint.elsewhere)
        self.reading.ended = OrderedDict.fromkeys(checkpoint.ended)

    def begin(self, high: int) -> None:
        """Start after this message, if there is no checkpoint."""
        self.skip_to(high)
        self._durable = self.snapshot()

    # --- taking it ----------------------------------------------------------------------------------------------------

    @property
    def begins_at(self) -> int:
        """First message to replay: that of the oldest open run, otherwise the next one."""
        return min((first for _, first in self._reopened.values()), default=self.high + 1)

    @property
    def buckets(self) -> set[int]:
        """Buckets of the open runs."""
        return {bucket for bucket, _ in self._reopened.values()}

    @property
    def processed_upto(self) -> int:
        """Last message that this host has processed."""
        return max(self.high, self._progress.of(self.number).sequence)

    def replay(self, message: StreamMessage) -> bool:
        """Process an old message again, without sinks, to restore open runs. Returns False if it is not needed."""
        if message.sequence <= self.high:
            if not self._reopened:
                return False
            self.reading.take(message, only=self._reopened)
            return True
        if message.sequence > self.processed_upto:
            return False
        self.reading.take(message)
        self.stamp_ns = message.stamp_ns
        self.high = message.sequence
        return True

    def attach_sinks(self, first: int) -> None:
        """Report the open runs to the sinks, and everything from now on. ``first`` is the stream's first message."""
        self.high = max(self.high, self.processed_upto)
        for run, (bucket, begun) in self._reopened.items():
            if begun < first:  # the beginning of the run was deleted
                opened = self.reading.open.setdefault(run, OpenRun(run, bucket, begun))
                opened.first, opened.unread = begun, True
        self.reading.release_ends(self._progress.of(self.number).released_ns)
        self._reopened.clear()
        self.reading.reset_counts()
        self._has_sinks = True
        wiring = self._runtime.wiring()
        self._sinks = tuple(sink for sink in wiring.sinks if not isinstance(sink, JournalSink))
        sinks: tuple[SpanSink, ...] = self._sinks  # without a journal: the stream serves as one
        if self._progress.of(self.number).writing:
            stored = spooled_spans(self._runtime.settings.state_dir)
            sinks = self._doubtful = (SkipStoredSpans(stored, self._sinks),)
        self._handle.correlator.resume(sinks, wiring.note_sinks)
        self.changed = True

    # --- holding it ---------------------------------------------------------------------------------------------------

    def take(self, message: StreamMessage) -> None:
        """Process the next message."""
        self._progress.begin(self.number)
        stamp_ns = self.reading.take(message)
        self.high, self.stamp_ns, self.changed = message.sequence, message.stamp_ns, True
        self._begun = True
        self._progress.commit(self.number, message.sequence, stamp_ns)
        if self._doubtful:
            self._doubtful = ()
            self._handle.correlator.tell(self._sinks, self._runtime.wiring().note_sinks)

    def settle(self, stamp_ns: int | None) -> None:
        """Release the held ends that have settled at this stream time; all of them if it is None."""
        if not self.reading.holds:
            return
        if stamp_ns is not None and not self.reading.is_due(stamp_ns):
            return
        self._progress.begin(self.number)
        released_ns = (
            self.reading.settle(stamp_ns)
            if stamp_ns is not None
            else self.reading.release_ends(2**63)
        )
        self.changed = True
        self._progress.commit(self.number, 0, released_ns)

    def kill(self, owners: Collection[str]) -> int:
        """End the open runs of dead publishers as ``killed``. Returns their number."""
        runs = self.reading.announced_by(owners) if self.reading.open else []
        for run in runs:
            opened = self.reading.forget(run)
            if opened is not None:
                self._ending(opened)
                self._handle.correlator.end_run(opened.run_id, ErrorType.KILLED)
                self.changed = True
        return len(runs)

    def skip_to(self, upto: int) -> None:
        """Record that everything up to this message is processed."""
        self.high, self._begun = max(self.high, upto), True

    def deleted(self, upto: int, position: int) -> int:
        """Record that the messages up to ``upto`` were deleted, those after ``position`` unread. Returns this partition's
        share of their number.
        """
        after = max(self.high, position)
        if upto <= after:
            return 0
        begun = self._begun
        self.skip_to(upto)
        self.changed = True
        if not begun:  # deleted before the group began
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
        """Return the current checkpoint."""
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
        """Take a snapshot. It becomes durable when all telemetry produced until now is."""
        self.pending, self._pending_s, self.changed = self.snapshot(), now_s, False

    def confirm(self) -> None:
        """Mark the pending snapshot as durable."""
        if self.pending is not None:
            self._durable, self.durable_s = self.pending, self._pending_s
            self.pending, self.due = None, True

    def document(self, *, left: bool = False) -> bytes:
        """Return the checkpoint to write: the last durable snapshot, or the current state if nothing changed since."""
        if self._has_sinks and not self.changed and self.pending is None:
            self._durable, self.durable_s = self.snapshot(), time.monotonic()
        return self._durable._replace(left=left).encode()

    def written(self, revision: int, now_s: float) -> None:
        """Record a successful write of the checkpoint."""
        self.revision, self.written_s, self.due = revision, now_s, False

    def leave(self) -> None:
        """Give up the partition. Its open runs stay open for the next holder."""
        correlator = self._handle.correlator
        correlator.tell(())
        if self._has_sinks:
            _forget_active(self._sinks, correlator.open_records())
        self._handle.detach()
        self._progress.release(self.number)
