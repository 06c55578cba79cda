"""The stand-in for the sinks of a runtime, until the first event wires them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakMethod

from spanbus._attaching.elsewhere import is_carried

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle
    from spanbus._correlation.span_state import SpanEvent, SpanSink, SpanState
    from spanbus._wiring import Wiring


class LazySinks:
    """Wires the sinks when the first record opens, and gives its place to them. ``wiring``, a runtime's method, is
    held weakly.
    """

    def __init__(self, wiring: Callable[[], Wiring], handle: Callable[[], Handle | None]) -> None:
        self._wiring = WeakMethod(wiring)
        self._handle = handle

    def opened(self, record: SpanState) -> None:
        for sink in self._wired():
            sink.opened(record)

    def closed(self, record: SpanState) -> None:
        for sink in self._wired():
            sink.closed(record)

    def late(self, note: SpanEvent) -> None:
        for sink in self._wired():
            sink.late(note)

    def wire(self) -> None:
        """Set up telemetry: an event came, even if none that opens a record."""
        self._wired()

    def _wired(self) -> tuple[SpanSink, ...]:
        wiring, handle = self._wiring(), self._handle()
        if wiring is None or handle is None:
            return ()
        wired = wiring()
        if handle.bus is not None and is_carried(handle.bus()):
            sinks: tuple[SpanSink, ...] = (wired.context_only(),)
            handle.correlator.tell(sinks)
            return sinks
        handle.correlator.tell(wired.sinks, wired.note_sinks)
        return wired.sinks
