"""Span processor that puts spans into the spool."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor


class SpoolSpanProcessor(SpanProcessor):
    """Takes sampled spans as they end."""

    def __init__(
        self,
        put: Callable[[ReadableSpan], None],
        close: Callable[[], None],
        flush: Callable[[float], bool],
    ) -> None:
        self._put, self._close, self._flush = put, close, flush

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is kept before the end."""

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self._put(span)

    def shutdown(self) -> None:
        self._close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._flush(timeout_millis / 1e3)
