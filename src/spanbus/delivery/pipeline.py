"""The SDK's processors and readers, put in front of delivery.

What ends here is handed to one thread and delivered from there: to the local store through a callable, over OTLP where an
endpoint is configured. Nothing here blocks a caller or raises into it.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from spanbus.delivery.statistics import DeliveryStatistics

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData

    from spanbus.delivery.metric_reader import SpoolMetricReader

logger = logging.getLogger("spanbus")

Local = Callable[[str, bytes], None]
"""Takes a signal (``traces``, ``metrics``, ``logs``) and an OTLP export request in protobuf bytes; raises what went wrong."""

Exclusive = Callable[[], AbstractContextManager[object]]

_BATCH = 512
_QUEUE = 200_000


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


class Leftover:
    """What a process that died left open, and what it measured and had not exported."""

    def __init__(self, open: list[tuple[int, list[bytes]]], measurements: list[bytes]) -> None:
        self.open, self.measurements = open, measurements


class Pipeline:
    """Opened once, closed once. All methods may be called from any thread.

    ``on_leftover`` is given what dead processes left, in the delivery thread; what it ends is put before it returns.
    """

    def __init__(self, options: DeliveryOptions, *, on_leftover: Callable[[Leftover], None] | None = None) -> None:
        self._options = options
        self._on_leftover = on_leftover
        self.resource = options.resource
        self.span_processor: SpanProcessor = _Spans(self)
        self._queue: deque[tuple[str, object]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._reader: SpoolMetricReader | None = None
        self._spooled: dict[str, int] = {}
        self._delivered: dict[str, int] = {}
        self._dropped: dict[tuple[str, str], int] = {}
        self._outage: str | None = None
        self._told = False
        self._exporters: dict[str, object] = {}

    # --- in -----------------------------------------------------------------------------------------------------------

    def put(self, signal: str, item: object) -> None:
        """Take one finished span, log record or collection of metrics."""
        with self._changed:
            if len(self._queue) >= _QUEUE:
                self._dropped[signal, "quota"] = self._dropped.get((signal, "quota"), 0) + 1
                return
            self._spooled[signal] = self._spooled.get(signal, 0) + 1
            self._queue.append((signal, item))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="spanbus-delivery", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def put_metrics(self, data: MetricsData) -> None:
        """Take one collection of metrics."""
        self.put("metrics", data)

    def metric_reader(self, exclusive: Exclusive = nullcontext) -> SpoolMetricReader:
        """The reader for a MeterProvider: collects when its ``export_now`` is called and when it is shut down.

        ``exclusive`` keeps measurements out while a collection is taken.
        """
        from spanbus.delivery.metric_reader import SpoolMetricReader

        self._reader = SpoolMetricReader(self.put_metrics, self._options.lifetime, self._options.env, exclusive)
        return self._reader

    def log_processor(self) -> LogRecordProcessor:
        """The processor for a LoggerProvider."""
        from spanbus.delivery.log_processor import SpoolLogProcessor

        def take(record: ReadableLogRecord) -> None:
            self.put("logs", record)

        return SpoolLogProcessor(take, self.flush)

    # --- the journal of what is open ------------------------------------------------------------------------------------

    def journal_open(self, key: int, data: bytes) -> None:
        """Remember what was opened until it is closed by its span."""

    def journal_update(self, key: int, data: bytes) -> None:
        """Add to what was opened."""

    def journal_close(self, key: int) -> None:
        """Forget what was opened."""

    def measure(self, data: bytes) -> int:
        """Remember a measurement until it is exported."""
        del data
        return 0

    # --- out ----------------------------------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything that was put is acknowledged; False when that took longer than ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (self._queue or self._busy) and self._thread is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
            return self._outage is None

    def close(self, timeout_s: float | None = None) -> None:
        """Deliver what can be delivered within the exit limit; may be called twice."""
        limit_s = self._options.exit_timeout_s if timeout_s is None else timeout_s
        self.flush(limit_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def statistics(self) -> DeliveryStatistics:
        with self._changed:
            return DeliveryStatistics(dict(self._spooled), dict(self._delivered), {}, dict(self._dropped), 0, len(self._queue), None, self._outage)

    def forked(self) -> None:
        """In a child: let go of what belongs to the parent. This pipeline is not used there again."""
        self._changed = threading.Condition()
        self._queue.clear()
        self._thread = None
        self._busy = False

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        return
                    self._busy = False
                    self._changed.notify_all()
                    self._changed.wait()
                self._busy = True
                batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            for signal in ("traces", "metrics", "logs"):
                items = [item for which, item in batch if which == signal]
                if items:
                    self._deliver(signal, items)

    def _deliver(self, signal: str, items: Sequence[object]) -> None:
        try:
            if self._options.local is not None:
                for body in _encoded(signal, items):
                    self._options.local(signal, body)
            if self._options.remote:
                self._export(signal, items)
            self._delivered[signal] = self._delivered.get(signal, 0) + len(items)
            self._outage = None
        except Exception as error:  # the wall around an export
            self._outage = f"{type(error).__name__}: {error}"
            self._dropped[signal, "refused"] = self._dropped.get((signal, "refused"), 0) + len(items)
            logger.debug("export of %s failed", signal, exc_info=error)
            if not self._told:
                self._told = True
                print(f"spanbus: telemetry could not be delivered: {error}", file=sys.stderr)

    def _export(self, signal: str, items: Sequence[object]) -> None:
        from spanbus.delivery import sdk_export

        sdk_export.export(self._exporters, self._options.env, signal, items)


def _encoded(signal: str, items: Sequence[object]) -> list[bytes]:
    from spanbus.delivery import sdk_export

    return sdk_export.encoded(signal, items)


class _Spans(SpanProcessor):
    """Takes sampled spans as they end."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is kept before the end."""

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self._pipeline.put("traces", span)

    def shutdown(self) -> None:
        self._pipeline.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._pipeline.flush(timeout_millis / 1e3)
