"""Handle of an event loop, asyncio's or trio's: call into it from any thread, or start a task in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import sniffio


class LoopClosed(Exception):
    """The event loop is closed."""


class LoopHandle:
    """The event loop in which this object was created, asyncio's or trio's."""

    def __init__(self) -> None:
        """Raises ``sniffio.AsyncLibraryNotFoundError`` outside an event loop."""
        library = sniffio.current_async_library()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trio: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        if library == "trio":
            import trio

            self._trio = trio.lowlevel.current_trio_token()
        else:
            self._loop = asyncio.get_running_loop()

    @staticmethod
    def current() -> LoopHandle | None:
        """Return a handle of the running event loop, None outside of one."""
        try:
            return LoopHandle()
        except sniffio.AsyncLibraryNotFoundError:
            return None

    def is_here(self) -> bool:
        """Whether the caller runs in this event loop."""
        if self._loop is not None:
            try:
                return asyncio.get_running_loop() is self._loop
            except RuntimeError:
                return False
        import trio

        try:
            return trio.lowlevel.current_trio_token() is self._trio
        except RuntimeError:
            return False

    def is_closed(self) -> bool:
        return self._loop.is_closed() if self._loop is not None else False

    def call(self, function: Callable[[], object]) -> None:
        """Schedule a call of ``function`` in the loop, from any thread. Raises :class:`LoopClosed`."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(_in_asyncio, function)
            except RuntimeError as error:
                raise LoopClosed from error
            return
        import trio

        try:
            self._trio.run_sync_soon(function)
        except trio.RunFinishedError as error:
            raise LoopClosed from error

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Start a task in the loop; must be called from within the loop."""
        if self._loop is not None:

            async def run() -> None:
                await function()

            task = self._loop.create_task(run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        import trio

        trio.lowlevel.spawn_system_task(function)


def cancelled_from_outside() -> bool:
    """Whether the current task itself is being cancelled; otherwise something that it awaited was cancelled."""
    if sniffio.current_async_library() == "asyncio":
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return True


def _in_asyncio(function: Callable[[], object]) -> None:
    """Call ``function`` with sniffio set to asyncio, which cannot be detected in a callback outside of a task."""
    token = sniffio.current_async_library_cvar.set("asyncio")
    try:
        function()
    finally:
        sniffio.current_async_library_cvar.reset(token)
