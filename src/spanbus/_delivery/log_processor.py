"""Log record processor that puts records into the spool."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource


class SpoolLogProcessor(LogRecordProcessor):
    """Takes log records as they are emitted."""

    def __init__(
        self, take: Callable[[ReadableLogRecord], None], flush: Callable[[float], bool]
    ) -> None:
        self._take = take
        self._flush = flush

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._take(
            ReadableLogRecord(
                log_record=log_record.log_record,
                resource=log_record.resource or Resource({}),
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )

    def shutdown(self) -> None:
        """The pipeline is closed by its owner."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._flush(timeout_millis / 1e3)
