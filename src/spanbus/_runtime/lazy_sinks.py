"""Placeholder for the sinks of a runtime, until the first event creates them."""

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
    """Sink that creates the real sinks at the first call and replaces itself by them.

    ``wiring`` is a method of a runtime, and held weakly.
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
        """Create the sinks: an event arrived, even if it opens no span."""
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
