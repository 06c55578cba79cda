"""Call the handlers of delivered events on a bus, in a separate thread, and wait for them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from spanbus._telemetry.context import attached, from_headers
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.events import Event


class Handlers:
    """A thread that dispatches events on the bus. Coroutine handlers without an event loop run in the thread's own."""

    def __init__(self, bus: WorkflowEventBus) -> None:
        self._bus = bus
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="spanbus-handlers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.wait(left, timeout=0.1))
            self._loop.close()

    def stop(self) -> None:
        """Stop the thread without waiting for running handlers."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def handle(self, event: Event) -> BaseException | None:
        """Dispatch an event, wait for all its handlers, and return the first error."""
        called = asyncio.run_coroutine_threadsafe(self._dispatch(event), self._loop)
        try:
            return await asyncio.wrap_future(called)
        except Exception as error:  # the bus is not ours
            return error

    async def _dispatch(self, event: Event) -> BaseException | None:
        headers = {"traceparent": event.traceparent, "tracestate": event.tracestate}
        with attached(from_headers(headers)):  # spans of handlers belong to the trace of the run
            results = await self._bus.dispatch(event)
        return next((each.error for each in results if not each.success), None)
