"""Calling of a bus's handlers with events of a stream, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from spanbus._telemetry.context import attached, from_headers
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.events import Event


class Handlers:
    """Thread that publishes events on the bus; its event loop runs coroutine handlers that have no loop of their own."""

    def __init__(self, bus: WorkflowEventBus) -> None:
        self._bus = bus
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="spanbus-handlers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
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
        """Publish an event and wait for all its handlers; return the first error, or None."""
        called = asyncio.run_coroutine_threadsafe(self._handled(event), self._loop)
        try:
            return await asyncio.wrap_future(called)
        except Exception as error:  # the bus itself may raise
            return error

    async def _handled(self, event: Event) -> BaseException | None:
        headers = {"traceparent": event.traceparent, "tracestate": event.tracestate}
        with attached(from_headers(headers)):  # handlers' spans belong to the trace of the run
            results = await self._bus.dispatch(event)
        return next((each.error for each in results if not each.success), None)
