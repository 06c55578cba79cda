"""The SDK's processors and readers, put in front of the spool.

A span that ends, a log record, a collection of metrics is encoded once, in the thread that made it, and is in the spool
when the call returns. From there one thread per destination sends it. Nothing here blocks a caller or raises into it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from spanbus.delivery import wire, wire_metrics
from spanbus.delivery.destinations import LOCAL, REMOTE, Keep, LocalDestination, OtlpDestination, apart, without
from spanbus.delivery.ledger import NOTHING, Counts, Fates, Ledger
from spanbus.delivery.lifesign import LifeSigns
from spanbus.delivery.outcomes import Outcome
from spanbus.delivery.refusals import RefusedFolder
from spanbus.delivery.sender import Destination, LaneStatistics, Sender, SenderOptions, to_stderr
from spanbus.delivery.signals import Signal
from spanbus.delivery.spool import SEGMENT_BYTES, MemorySpool, Spool, Stored
from spanbus.delivery.spool_files import APART, FOLDER, Leftover, SpoolUnavailable
from spanbus.delivery.statistics import DeliveryStatistics

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from spanbus.delivery.metric_reader import SpoolMetricReader

__all__ = ["DeliveryOptions", "Leftover", "Local", "Pipeline"]

logger = logging.getLogger(__name__)

K = TypeVar("K")

Local = Keep
"""Takes a signal (``traces``, ``metrics``, ``logs``) and an OTLP export request in protobuf bytes; raises what went wrong."""

Exclusive = Callable[[], AbstractContextManager[object]]

REFUSED: Final = "refused"

_GROUPS_MOST = 1000
_SMALLEST_SEGMENT_BYTES = 64 * 1024
_CLOSING_S = 0.05
"""What of the exit limit is left for everything but sending."""
_TRACES = Signal.TRACES
_NOWHERE = Resource.get_empty()

# The keys that the instrumentations look for have no public name.
_SUPPRESS_KEYS: Final = tuple(
    str(key) for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY") if (key := getattr(otel_context, name, None)) is not None
)


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """Where telemetry goes and how long it may take. ``env`` holds the ``OTEL_EXPORTER_OTLP_*`` variables."""

    state_dir: Path
    resource: Resource
    env: Mapping[str, str]
    lifetime: Literal["run", "service"] = "service"
    exit_timeout_s: float = 0.25
    quota_bytes: int = 256 * 1024 * 1024
    remote: bool = True
    """Send over OTLP."""
    local: Local | None = None
    """The local store, where it is written."""
    tell: Callable[[str], None] = to_stderr
    """Takes the rare line for the person who started the program."""


class Pipeline:
    """Opened once, closed once. All methods may be called from any thread.

    ``on_leftover`` is given what dead processes left; what it ends is put before it returns. It runs in a delivery thread
    after :meth:`start`, or in the thread that calls :meth:`flush`.
    """

    def __init__(self, options: DeliveryOptions, *, on_leftover: Callable[[Leftover], None] | None = None) -> None:
        self._options = options
        self._on_leftover = on_leftover
        self.resource = options.resource
        self._closed: DeliveryStatistics | None = None
        self._measures = False
        self._broken: dict[Signal, int] = {}
        self._separate = apart(options.env) if options.remote and not options.state_dir.name.startswith(APART) else []
        self._apart = self._opened_apart()
        self._groups: dict[tuple[int, int], tuple[object, object, int]] = {}
        self._last_group: tuple[object, object, int] = (self, self, 0)
        self._adopting = threading.Lock()
        self._adopter: int | None = None
        """The thread that finishes what a dead process left: what it puts is measured by itself."""
        names = tuple(name for name, wanted in ((REMOTE, options.remote), (LOCAL, options.local is not None)) if wanted)
        self._spool, kept_in, remedy = self._opened(names)
        self._ledger = Ledger(options.state_dir) if not options.state_dir.name.startswith(APART) else None
        self._noted = self._inherited = NOTHING
        self._collected = self._exported = NOTHING
        """What the collections of metrics that were taken, and those that outlive this process, say of the records."""
        if self._ledger is not None and self._spool.directory is not None:
            self._ledger.prepare()
        self._sender = Sender(
            self._spool, self._destinations(), SenderOptions(kept_in, remedy, life_signs=LifeSigns(options.state_dir / FOLDER), tell=options.tell),
            refused=RefusedFolder(options.state_dir / REFUSED), prepare=self._look_around,
        )
        self.span_processor: SpanProcessor = _Spans(self)

    def _opened_apart(self) -> dict[Signal, Pipeline]:
        """A pipeline with a spool of its own for each signal that goes to another server, and for what such ones left."""
        options = self._options
        if not options.remote or options.state_dir.name.startswith(APART):
            return {}
        found: dict[Signal, Pipeline] = {}
        for signal in Signal:
            folder = options.state_dir / f"{APART}{signal}"
            if signal in self._separate or next((folder / FOLDER).glob("*.seg"), None) is not None:
                env = without(options.env, [other for other in Signal if other is not signal])
                found[signal] = Pipeline(replace(options, state_dir=folder, env=env))
        return found

    def _opened(self, names: tuple[str, ...]) -> tuple[Spool, str, str]:
        """The spool, where it keeps what waits, what a person can do about it."""
        options = self._options
        segment_bytes = min(SEGMENT_BYTES, max(_SMALLEST_SEGMENT_BYTES, options.quota_bytes // 8))  # what goes at the quota is one of them
        spool = Spool(options.state_dir, quota_bytes=options.quota_bytes, destinations=names, segment_bytes=segment_bytes)
        try:
            spool.open()
        except SpoolUnavailable as error:
            options.tell(f"spanbus: telemetry waits in memory alone: {error}")
            return MemorySpool(destinations=names), "memory", "they are lost when the program ends"
        return spool, str(spool.directory), "the next program sends them, or `spanbus flush` does"

    def _destinations(self) -> list[Destination]:
        found: list[Destination] = []
        if self._options.local is not None:
            found.append(_Quiet(LocalDestination(self._options.local, _join)))
        if self._options.remote:
            found.append(_Quiet(OtlpDestination(without(self._options.env, self._separate), _join)))
        return found

    def start(self) -> None:
        """Begin to send, also what dead processes left; else the first record does it."""
        self._sender.start()
        for other in self._apart.values():
            other.start()

    def introduce(self, scope: InstrumentationScope) -> None:
        """What most spans will come from: its header stands before what this process opens, and tells others whose that was."""
        self._group(self.resource, scope)

    # --- in -----------------------------------------------------------------------------------------------------------

    def put_span(self, span: wire.FinishedSpan) -> None:
        """Take one finished span; its journal entry is closed with it."""
        context = span.context
        if context is None:
            return
        try:
            data = wire.encode_span(span)
        except Exception:  # the wall around an export
            self._unreadable(Signal.TRACES)
            return
        self.put_encoded(context.span_id, data, span.resource, span.instrumentation_scope)

    def put_encoded(self, span_id: int, span: bytes, resource: Resource | None, scope: InstrumentationScope | None) -> None:
        """The same with a span that is in OTLP bytes already."""
        last = self._last_group
        if last[0] is resource and last[1] is scope:
            group = last[2]
        else:
            try:
                group = self._group(resource, scope)
            except Exception:  # the wall around an export
                self._unreadable(Signal.TRACES)
                return
        measured = self._measures and (self._adopter is None or self._adopter != threading.get_ident())
        self._spool.put(_TRACES, group, span, closes=span_id, measured=measured)
        self._sender.wake()

    def dropped_of(self, trace_id: int) -> int:
        """How many spans of this trace could not be kept."""
        return self._spool.dropped_of(trace_id)

    def put_metrics(self, data: MetricsData, measured_upto: int | None = None) -> None:
        """Take one collection of metrics; it holds everything that was measured up to there."""
        try:
            encoded, points = wire_metrics.encode_metrics(data), wire_metrics.count_points(data)
        except Exception:  # the wall around an export
            self._unreadable(Signal.METRICS)
            return
        self._put_metrics(encoded, points, measured_upto)

    def _put_metrics(self, encoded: bytes, points: int, measured_upto: int | None) -> None:
        if Signal.METRICS in self._separate:
            self._apart[Signal.METRICS]._put_metrics(encoded, points, None)
            encoded, points = b"", 0  # what was measured is exported now: that is noted where the spans are
        self._spool.put(Signal.METRICS, self._spool.group(b""), encoded, count=points, measured_upto=measured_upto)
        if self._spool.on_disk:
            self._exported = self._collected
        self._sender.wake()

    def put_log(self, record: ReadableLogRecord) -> None:
        """Take one log record."""
        if Signal.LOGS in self._separate:
            self._apart[Signal.LOGS].put_log(record)
            return
        try:
            data = wire.encode_log(record)
            group = self._group(record.resource, record.instrumentation_scope)
        except Exception:  # the wall around an export
            self._unreadable(Signal.LOGS)
            return
        self._spool.put(Signal.LOGS, group, data)
        self._sender.wake()

    def metric_reader(self, exclusive: Exclusive = nullcontext) -> SpoolMetricReader:
        """The reader for a MeterProvider: collects when its ``export_now`` is called and when it is shut down.

        ``exclusive`` keeps measurements out while a collection is taken. From now on spans are kept until a collection was
        taken after them, so that what a killed process had measured can be measured again.
        """
        from spanbus.delivery.metric_reader import SpoolMetricReader

        self._measures = True
        return SpoolMetricReader(self.put_metrics, self._options.lifetime, self._options.env, exclusive, mark=self._mark)

    def log_processor(self) -> LogRecordProcessor:
        """The processor for a LoggerProvider."""
        from spanbus.delivery.log_processor import SpoolLogProcessor

        return SpoolLogProcessor(self.put_log, self.flush)

    def collected(self) -> DeliveryStatistics:
        """:meth:`statistics`, for the collection of metrics that is being taken."""
        found = self.statistics()
        self._collected = _fates(found)
        return found

    def _mark(self) -> int:
        return self._spool.sequence

    def _group(self, resource: Resource | None, scope: InstrumentationScope | None) -> int:
        """The number of this header in the spool. The objects are remembered, for a freed one's id is given again."""
        last = self._last_group
        if last[0] is resource and last[1] is scope:
            return last[2]
        key = id(resource), id(scope)
        known = self._groups.get(key)
        if known is not None:
            self._last_group = known
            return known[2]
        if len(self._groups) >= _GROUPS_MOST:
            self._groups.clear()
        number = self._spool.group(wire.encode_group(resource if resource is not None else _NOWHERE, scope))
        self._last_group = self._groups[key] = resource, scope, number
        return number

    def _unreadable(self, signal: Signal) -> None:
        if signal not in self._broken:
            logger.warning("a record of %s cannot be encoded; it is dropped and counted", signal, exc_info=True)
        self._broken[signal] = self._broken.get(signal, 0) + 1

    # --- the journal of what is open ------------------------------------------------------------------------------------

    def journal_open(self, key: int, data: bytes) -> None:
        """Remember what was opened until it is closed by its span."""
        self._spool.journal_open(key, data)

    def journal_update(self, key: int, data: bytes) -> None:
        """Add to what was opened."""
        self._spool.journal_update(key, data)

    def journal_close(self, key: int) -> None:
        """Forget what was opened."""
        self._spool.journal_close(key)

    # --- out ----------------------------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Take over what dead processes left; their records are sent with ours."""
        with self._adopting:
            self._adopter = threading.get_ident()
            try:
                for leftover in self._spool.adopt():
                    if self._on_leftover is not None:  # else it stays for a process that can finish it
                        self._on_leftover(leftover)
                        self._spool.adopted(leftover)
                if self._ledger is not None and self._measures:
                    self._inherited = _plus(self._inherited, self._ledger.take_untold())
            finally:
                self._adopter = None

    def _look_around(self) -> None:
        self.adopt()
        self._spool.sync()
        self._note()

    def _note(self, untold: Fates = NOTHING) -> None:
        """Write what became of records since the last time where others find it."""
        if self._ledger is not None:
            now, before = _fates(self._own()), self._noted
            written = self._ledger.add(
                Fates(
                    _minus(now.delivered, before.delivered), _minus(now.rejected, before.rejected), _minus(now.dropped, before.dropped),
                    untold.untold_rejected, untold.untold_dropped,
                )
            )
            if written:
                self._noted = now

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Take over what dead processes left and wait until everything is acknowledged; False when that took longer."""
        if self._closed is not None:
            return self._closed.waiting == 0
        try:
            self.adopt()
        except Exception:  # the wall around an export
            logger.warning("what dead processes left cannot be taken over", exc_info=True)
        deadline = time.monotonic() + timeout_s
        return all([self._sender.flush(timeout_s), *(other.flush(max(0.0, deadline - time.monotonic())) for other in self._apart.values())])

    def close(self, timeout_s: float | None = None) -> None:
        """Deliver what can be delivered within the exit limit; what is left waits in the spool. May be called twice."""
        if self._closed is not None:
            return
        limit_s = self._options.exit_timeout_s if timeout_s is None else timeout_s
        sending_s = max(limit_s / 2, limit_s - _CLOSING_S)
        Sender.stop_all([self._sender, *(other._sender for other in self._apart.values())], sending_s)
        for other in self._apart.values():
            other.close(0.0)
        lost = self._spool.give_up_memory()
        self._closed = found = self.statistics()
        told = self._exported if lost.get(Signal.METRICS) else self._collected
        untold = Fates({}, {}, {}, _minus(_fates(found).rejected, told.rejected), _minus(_fates(found).dropped, told.dropped))
        self._note(untold if self._measures else NOTHING)
        self._spool.close()

    def forked(self) -> None:
        """In a child: let go of what belongs to the parent. This pipeline is not used there again."""
        self._adopting = threading.Lock()
        self._adopter = None
        self._groups.clear()
        self._last_group = (self, self, 0)
        self._sender.forked()
        self._spool.forked()
        for other in self._apart.values():
            other.forked()

    def statistics(self) -> DeliveryStatistics:
        """What became of the records: as the collector's answers say where one is configured, else as the local store's do."""
        if self._closed is not None:
            return self._closed
        own, inherited = self._own(), self._inherited
        return own._replace(rejected=_add(own.rejected, inherited.untold_rejected), dropped=_add(own.dropped, inherited.untold_dropped))

    def _own(self) -> DeliveryStatistics:
        """The same without what other processes could not tell."""
        spooled, lanes = self._spool.statistics(), self._sender.statistics()
        lane = lanes.get(REMOTE) or lanes.get(LOCAL) or LaneStatistics({}, {}, {}, {}, None, None)
        rejected = {(str(signal), "partial_success"): count for signal, count in lane.rejected.items()}
        rejected.update({(str(signal), "refused"): count for signal, count in lane.refused.items()})
        dropped = {(str(signal), reason): count for (signal, reason), count in spooled.dropped.items()}
        dropped.update({(str(signal), "not_encodable"): count for signal, count in self._broken.items()})
        if LOCAL not in lanes:
            for (signal, reason), count in lane.unwanted.items():
                dropped[str(signal), reason] = dropped.get((str(signal), reason), 0) + count
        own = DeliveryStatistics(
            {str(signal): count for signal, count in spooled.put.items()}, {str(signal): count for signal, count in lane.delivered.items()},
            rejected, dropped, spooled.bytes, max((self._spool.pending(name) for name in lanes), default=0), spooled.oldest_at_ns, lane.outage,
        )
        return _sum(own, [other.statistics() for other in self._apart.values()])


class _Spans(SpanProcessor):
    """Takes sampled spans as they end."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is kept before the end."""

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self._pipeline.put_span(span)

    def shutdown(self) -> None:
        self._pipeline.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._pipeline.flush(timeout_millis / 1e3)


def _sum(own: DeliveryStatistics, others: Sequence[DeliveryStatistics]) -> DeliveryStatistics:
    for other in others:
        ages = [at_ns for at_ns in (own.oldest_at_ns, other.oldest_at_ns) if at_ns is not None]
        own = DeliveryStatistics(
            _add(own.spooled, other.spooled), _add(own.delivered, other.delivered), _add(own.rejected, other.rejected), _add(own.dropped, other.dropped),
            own.spool_bytes + other.spool_bytes, own.waiting + other.waiting, min(ages) if ages else None, own.outage or other.outage,
        )
    return own


def _add(one: Mapping[K, int], other: Mapping[K, int]) -> Mapping[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *(key for key in other if key not in one))}


def _fates(found: DeliveryStatistics) -> Fates:
    return Fates({(signal, ""): count for signal, count in found.delivered.items()}, found.rejected, found.dropped, {}, {})


def _plus(one: Fates, other: Fates) -> Fates:
    return Fates(*(_add(counts, more) for counts, more in zip(one, other, strict=True)))


def _minus(counts: Counts, before: Counts) -> Counts:
    return {key: count - before.get(key, 0) for key, count in counts.items() if count > before.get(key, 0)}


def _join(signal: Signal, records: Sequence[Stored]) -> bytes:
    return wire.join(signal, records)


@contextmanager
def _not_instrumented() -> Generator[None]:
    """Instrumented HTTP clients and databases make no spans of telemetry's own traffic: those would never end."""
    context = otel_context.get_current()
    for key in _SUPPRESS_KEYS:
        context = otel_context.set_value(key, True, context)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


class _Quiet:
    """A destination whose own work is not traced."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.name = destination.name

    @property
    def shown(self) -> str:
        return self._destination.shown

    def warm_up(self) -> None:
        with _not_instrumented():
            self._destination.warm_up()

    def meet(self, signal: Signal, timeout_s: float) -> Outcome:
        with _not_instrumented():
            return self._destination.meet(signal, timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        with _not_instrumented():
            return self._destination.send(signal, records, timeout_s)

    def interrupt(self) -> None:
        self._destination.interrupt()

    def close(self) -> None:
        self._destination.close()
