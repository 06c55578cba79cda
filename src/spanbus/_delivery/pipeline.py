"""Delivery through the spool: records are encoded, spooled and sent.

A finished span, a log record or a collection of metrics is encoded once, in the thread that made it, and is in the spool when
the call returns. One thread per destination sends from there. Nothing here blocks the caller or raises into it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, TypeVar

from spanbus._delivery.dead_letters import REFUSED, DeadLetters
from spanbus._delivery.delivery_options import DeliveryOptions, Local
from spanbus._delivery.destinations import (
    LOCAL,
    REMOTE,
    LocalDestination,
    OtlpDestination,
    apart,
    without,
)
from spanbus._delivery.ledger import NOTHING, DeliveryCounts, Ledger, minus
from spanbus._delivery.liveness import Liveness
from spanbus._delivery.quiet import Quiet
from spanbus._delivery.recovery import Leftover
from spanbus._delivery.sender import Destination, LaneStatistics, Sender, SenderOptions
from spanbus._delivery.spool import SEGMENT_BYTES, MemorySpool, Spool
from spanbus._delivery.spool_files import APART, FOLDER, SpoolUnavailable
from spanbus._delivery.statistics import DeliveryStatistics, added, total
from spanbus._loggers import Logger
from spanbus._otlp import encode as wire
from spanbus._otlp import encode_metrics as wire_metrics
from spanbus._otlp.resource import PlainResource, Scope
from spanbus._otlp.signals import OTLP_SIGNALS, Signal

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from spanbus._delivery.metric_reader import SpoolMetricReader
    from spanbus._otlp import metrics_data as ours

__all__ = ["DeliveryOptions", "Leftover", "Local", "Pipeline"]

logger = Logger(__name__)

K = TypeVar("K")

Exclusive = Callable[[], AbstractContextManager[object]]

_GROUPS_MOST: Final = 1000
_SMALLEST_SEGMENT_BYTES: Final = 64 * 1024
_LINGER_S: Final = 0.2
_SERVICE_LINGER_S: Final = 1.0
"""Seconds. A request costs as much CPU as forty spans, so a service sends at most one a second while few records come."""
_CLOSING_S: Final = 0.05
"""Part of the exit limit, in seconds, that is reserved for everything but sending."""
_TRACES: Final = Signal.TRACES
_NOWHERE: Final = PlainResource({})


class Pipeline:
    """Delivery through the spool: opened once, closed once. Thread-safe.

    ``on_leftover`` gets the leftovers of dead processes and puts the spans that it ends before it returns. It runs in a
    delivery thread after :meth:`start`, or in the thread that calls :meth:`flush`.
    """

    def __init__(
        self, options: DeliveryOptions, *, on_leftover: Callable[[Leftover], None] | None = None
    ) -> None:
        self._options = options
        self._on_leftover = on_leftover
        self.resource = options.resource
        self._closed: DeliveryStatistics | None = None
        self._measures = False
        self._not_encodable: dict[Signal, int] = {}
        self._separate = (
            apart(options.env)
            if options.remote and not options.state_dir.name.startswith(APART)
            else []
        )
        self._apart = self._opened_apart()
        self._groups: dict[tuple[int, int], tuple[object, object, int]] = {}
        self._last_group: tuple[object, object, int] = (self, self, 0)
        self._adopting = threading.Lock()
        self._adopter: int | None = None
        """Thread that finishes leftovers of a dead process; it measures its spans itself."""
        names = tuple(
            name
            for name, wanted in ((REMOTE, options.remote), (LOCAL, options.local is not None))
            if wanted
        )
        self._spool, kept_in, remedy = self._opened(names)
        self._ledger = (
            Ledger(options.state_dir) if not options.state_dir.name.startswith(APART) else None
        )
        self._in_ledger = self._inherited = NOTHING
        self._collected = self._exported = NOTHING
        """Record counts in the last collection of metrics, and in the last one that outlives this process."""
        if self._ledger is not None and self._spool.directory is not None:
            self._ledger.prepare()
        self.sender = Sender(
            self._spool,
            self._destinations(),
            SenderOptions(
                kept_in,
                remedy,
                linger_s=_SERVICE_LINGER_S if options.lifetime == "service" else _LINGER_S,
                life_signs=Liveness(options.state_dir / FOLDER),
                taking_s=options.taking_timeout_s,
                tell=options.tell,
            ),
            refused=DeadLetters(options.state_dir / REFUSED),
            prepare=self._maintain,
        )

    def _opened_apart(self) -> dict[Signal, Pipeline]:
        """Open a pipeline with its own spool for each signal that goes to another server, or has segments in such a spool."""
        options = self._options
        if not options.remote or options.state_dir.name.startswith(APART):
            return {}
        found: dict[Signal, Pipeline] = {}
        for signal in OTLP_SIGNALS:
            folder = options.state_dir / f"{APART}{signal}"
            if signal in self._separate or next((folder / FOLDER).glob("*.seg"), None) is not None:
                env = without(options.env, [other for other in OTLP_SIGNALS if other is not signal])
                found[signal] = Pipeline(options._replace(state_dir=folder, env=env))
        return found

    def _opened(self, names: tuple[str, ...]) -> tuple[Spool, str, str]:
        """Open the spool; return it with the place of waiting records and the remedy, for messages."""
        options = self._options
        # At the quota a whole segment is dropped, so it is a fraction of the quota.
        segment_bytes = min(SEGMENT_BYTES, max(_SMALLEST_SEGMENT_BYTES, options.quota_bytes // 8))
        spool = Spool(
            options.state_dir,
            quota_bytes=options.quota_bytes,
            destinations=names,
            segment_bytes=segment_bytes,
            brief=options.lifetime == "run",
        )
        try:
            spool.open()
        except SpoolUnavailable as error:
            options.tell(f"spanbus: telemetry waits in memory alone: {error}")
            return MemorySpool(destinations=names), "memory", "they are lost when the program ends"
        return spool, str(spool.directory), "the next program sends them, or `spanbus flush` does"

    def _destinations(self) -> list[Destination]:
        found: list[Destination] = []
        if self._options.local is not None:
            found.append(Quiet(LocalDestination(self._options.local)))
        if self._options.remote:
            found.append(Quiet(OtlpDestination(without(self._options.env, self._separate))))
        return found

    def start(self) -> None:
        """Start sending, including the records of dead processes. Otherwise the first record starts it."""
        self.sender.start()
        for other in self._apart.values():
            other.start()

    def introduce(self, scope: Scope) -> None:
        """Write our resource header first, so that a recovering process knows the owner of the open entries."""
        self._group(self.resource, scope)

    # --- in -----------------------------------------------------------------------------------------------------------

    def put_span(self, span: wire.FinishedSpan) -> None:
        """Put one finished span; this closes its journal entry."""
        context = span.context
        if context is None:
            return
        try:
            data = wire.encode_span(span)
        except Exception:  # nothing is raised into the program
            self._count_not_encodable(Signal.TRACES)
            return
        self.put_encoded(context.span_id, data, span.resource, span.instrumentation_scope)

    def put_encoded(
        self,
        span_id: int,
        span: bytes,
        resource: Resource | PlainResource | None,
        scope: InstrumentationScope | Scope | None,
    ) -> None:
        """Put one finished span in OTLP bytes."""
        last = self._last_group
        if last[0] is resource and last[1] is scope:
            group = last[2]
        else:
            try:
                group = self._group(resource, scope)
            except Exception:  # nothing is raised into the program
                self._count_not_encodable(Signal.TRACES)
                return
        measured = self._measures and (
            self._adopter is None or self._adopter != threading.get_ident()
        )
        self._spool.put(_TRACES, group, span, closes=span_id, measured=measured)
        self.sender.wake()

    def dropped_of(self, trace_id: int) -> int:
        """Number of dropped spans of this trace."""
        return self._spool.dropped_of(trace_id)

    def put_metrics(
        self,
        data: MetricsData | ours.MetricsData,
        measured_upto: int | None = None,
        *,
        finishes: bytes | None = None,
    ) -> None:
        """Put one collection of metrics; it holds all measurements up to ``measured_upto``, or all of a dead process."""
        try:
            encoded, points = wire_metrics.encode_metrics(data), wire_metrics.count_points(data)
        except Exception:  # nothing is raised into the program
            self._count_not_encodable(Signal.METRICS)
            return
        self.put_encoded_metrics(encoded, points, measured_upto, finishes)

    def put_encoded_metrics(
        self,
        encoded: bytes,
        points: int,
        measured_upto: int | None,
        finishes: bytes | None = None,
    ) -> None:
        if Signal.METRICS in self._separate:
            self._apart[Signal.METRICS].put_encoded_metrics(encoded, points, None)
            encoded, points = b"", 0  # an empty record marks the measurements as exported
        self._spool.put(
            Signal.METRICS,
            self._spool.group(b""),
            encoded,
            count=points,
            measured_upto=measured_upto,
            finishes=finishes,
        )
        if self._spool.on_disk:
            self._exported = self._collected
        self.sender.wake()

    def put_log(self, record: ReadableLogRecord) -> None:
        """Put one log record."""
        if Signal.LOGS in self._separate:
            self._apart[Signal.LOGS].put_log(record)
            return
        try:
            data = wire.encode_log(record)
            group = self._group(record.resource, record.instrumentation_scope)
        except Exception:  # nothing is raised into the program
            self._count_not_encodable(Signal.LOGS)
            return
        self._spool.put(Signal.LOGS, group, data)
        self.sender.wake()

    @property
    def span_processor(self) -> SpanProcessor:
        """The processor for a TracerProvider."""
        from spanbus._delivery.span_processor import SpoolSpanProcessor

        return SpoolSpanProcessor(self.put_span, self.close, self.flush)

    def measures(self) -> Callable[[], int]:
        """Keep spans until a later collection of metrics holds them; returns a function for the last measured number."""
        self._measures = True
        return self._last_measured

    def metric_reader(self, exclusive: Exclusive = nullcontext) -> SpoolMetricReader:
        """The reader for a MeterProvider: collects on ``export_now`` and at shutdown.

        ``exclusive`` blocks measurements during a collection. From now on spans are kept until a later collection holds them,
        so that the measurements of a killed process can be repeated.
        """
        from spanbus._delivery.metric_reader import SpoolMetricReader

        self._measures = True
        return SpoolMetricReader(
            self.put_metrics,
            self._options.lifetime,
            self._options.env,
            exclusive,
            mark=self._last_measured,
        )

    def log_processors(self) -> list[LogRecordProcessor]:
        """The processor for a LoggerProvider."""
        from spanbus._delivery.log_processor import SpoolLogProcessor

        return [SpoolLogProcessor(self.put_log, self.flush)]

    def collected(self) -> DeliveryStatistics:
        """:meth:`statistics` for the current collection of metrics, which reports these counts."""
        found = self.statistics()
        self._collected = DeliveryCounts.of(found)
        return found

    def _last_measured(self) -> int:
        return self._spool.sequence

    def _group(
        self, resource: Resource | PlainResource | None, scope: InstrumentationScope | Scope | None
    ) -> int:
        """Return the number of this header in the spool.

        The cache is keyed by ``id()``. It holds the objects too, because the id of a freed object is reused.
        """
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
        number = self._spool.group(
            wire.encode_group(resource if resource is not None else _NOWHERE, scope)
        )
        self._last_group = self._groups[key] = resource, scope, number
        return number

    def _count_not_encodable(self, signal: Signal) -> None:
        """Log the first such error per signal and count it; called in its exception handler."""
        if signal not in self._not_encodable:
            logger.warning(
                "a record of %s cannot be encoded; it is dropped and counted",
                signal,
                exc_info=True,  # noqa: LOG014 (called in the handler)
            )
        self._not_encodable[signal] = self._not_encodable.get(signal, 0) + 1

    @property
    def journal(self) -> Spool:
        """The spool, for journal entries of open spans."""
        return self._spool

    # --- out ----------------------------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Adopt the files of dead processes; their records are sent with ours."""
        with self._adopting:
            self._adopter = threading.get_ident()
            try:
                for leftover in self._spool.adopt():
                    # Without a handler the leftovers stay for a process that has one.
                    if self._on_leftover is not None:
                        self._on_leftover(leftover)
                        self._spool.adopted(leftover)
                if self._ledger is not None and self._measures:
                    self._inherited = self._inherited.plus(self._ledger.take_unexported())
            finally:
                self._adopter = None

    def take_over(self) -> None:
        """:meth:`adopt` without raising: errors are logged."""
        try:
            self.adopt()
        except Exception:
            logger.warning("what dead processes left cannot be taken over", exc_info=True)

    def _maintain(self) -> None:
        self.adopt()
        self._spool.sync()
        self._update_ledger()

    def _update_ledger(self, unexported: DeliveryCounts = NOTHING) -> None:
        """Add the counts since the last call to the ledger."""
        if self._ledger is not None:
            now, before = DeliveryCounts.of(self._own()), self._in_ledger
            written = self._ledger.add(
                DeliveryCounts(
                    minus(now.delivered, before.delivered),
                    minus(now.rejected, before.rejected),
                    minus(now.dropped, before.dropped),
                    unexported.unexported_rejected,
                    unexported.unexported_dropped,
                )
            )
            if written:
                self._in_ledger = now

    def arrival(self) -> Callable[[], bool]:
        """Return a function that tells whether all records put until now are acknowledged: by the collector if one is
        configured, else by the local store.
        """
        spool, mark = self._spool, self._spool.mark()
        others = [other.arrival() for other in self._apart.values()]
        destination = REMOTE if self._options.remote else LOCAL
        return lambda: spool.passed(mark, destination) and all(other() for other in others)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Adopt dead processes and wait until everything is acknowledged; False when that took longer."""
        if self._closed is not None:
            return self._closed.waiting == 0
        self.take_over()
        deadline = time.monotonic() + timeout_s
        return all(
            [
                self.sender.flush(timeout_s),
                *(
                    other.flush(max(0.0, deadline - time.monotonic()))
                    for other in self._apart.values()
                ),
            ]
        )

    def close(self, timeout_s: float | None = None) -> None:
        """Send within the exit limit; unsent records wait in the spool. May be called twice."""
        if self._closed is not None:
            return
        limit_s = self._options.exit_timeout_s if timeout_s is None else timeout_s
        sending_s = max(limit_s / 2, limit_s - _CLOSING_S)
        Sender.stop_all([self.sender, *(other.sender for other in self._apart.values())], sending_s)
        for other in self._apart.values():
            other.close(0.0)
        lost = self._spool.give_up_memory()
        self._closed = found = self.statistics()
        reported = self._exported if lost.get(Signal.METRICS) else self._collected
        unexported = DeliveryCounts(
            {},
            {},
            {},
            minus(DeliveryCounts.of(found).rejected, reported.rejected),
            minus(DeliveryCounts.of(found).dropped, reported.dropped),
        )
        self._update_ledger(unexported if self._measures else NOTHING)
        self._spool.close()

    def forked(self) -> None:
        """In a child process: release the parent's resources. The child does not use this pipeline."""
        self._adopting = threading.Lock()
        self._adopter = None
        self._groups.clear()
        self._last_group = (self, self, 0)
        self.sender.forked()
        self._spool.forked()
        for other in self._apart.values():
            other.forked()

    def statistics(self) -> DeliveryStatistics:
        """Delivery counts by the collector's answers if one is configured, else by the local store's."""
        if self._closed is not None:
            return self._closed
        own, inherited = self._own(), self._inherited
        return own._replace(
            rejected=added(own.rejected, inherited.unexported_rejected),
            dropped=added(own.dropped, inherited.unexported_dropped),
        )

    def _own(self) -> DeliveryStatistics:
        """Statistics without the inherited counts of other processes."""
        spooled, lanes = self._spool.statistics(), self.sender.statistics()
        lane = lanes.get(REMOTE) or lanes.get(LOCAL) or LaneStatistics({}, {}, {}, {}, None)
        rejected = {
            (str(signal), "partial_success"): count for signal, count in lane.rejected.items()
        }
        rejected.update({(str(signal), "refused"): count for signal, count in lane.refused.items()})
        dropped = {
            (str(signal), reason): count for (signal, reason), count in spooled.dropped.items()
        }
        dropped.update(
            {(str(signal), "not_encodable"): count for signal, count in self._not_encodable.items()}
        )
        if LOCAL not in lanes:
            for (signal, reason), count in lane.unwanted.items():
                dropped[str(signal), reason] = dropped.get((str(signal), reason), 0) + count
        own = DeliveryStatistics(
            {str(signal): count for signal, count in spooled.put.items()},
            {str(signal): count for signal, count in lane.delivered.items()},
            rejected,
            dropped,
            spooled.bytes,
            max((self._spool.pending(name) for name in lanes), default=0),
            spooled.oldest_at_ns,
            lane.outage,
        )
        return total(own, [other.statistics() for other in self._apart.values()])
