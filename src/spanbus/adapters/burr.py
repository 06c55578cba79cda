"""Burr: each run of an application is a run, and each action a phase."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spanbus._attaching.methods import is_coroutine_function
from spanbus._attaching.replace import replaced
from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.adapters._lifecycle import Hooks, join
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_CALLS = ("step", "astep", "run", "arun", "stream_result", "astream_result")
_STREAMS = {
    "iterate": _watching.stream,
    "stream_iterate": _watching.stream,
    "aiterate": _watching.async_stream,
    "astream_iterate": _watching.async_stream,
}


def attach(application: Any, handle: Handle) -> None:
    """Wrap the methods of an application that execute actions, and add hooks before and after each action."""
    adapters = getattr(application, "_adapter_set", None)
    if adapters is None or isinstance(application, type):
        raise InputError(
            "instrument an application of Burr, as ApplicationBuilder().build() gives it"
        )
    watched = _Application(handle, application)
    for name in _CALLS:
        handle.add_undo(replaced(application, name, watched.called))
    for name, passed in _STREAMS.items():
        handle.add_undo(replaced(application, name, functools.partial(watched.streamed, passed)))
    handle.add_undo(join([adapters], watched.actions, ("pre_run_step",), ("post_run_step",)))


class _Actions(Hooks):
    """Actions of an application. Streaming actions are never current, because their consumer drives them."""

    left: Callable[[BaseException | None], None] | None = None

    def pre_run_step(self, *, app_id: str, sequence_id: int, action: Any, **_: object) -> None:
        self.begin(
            (app_id, sequence_id), "phase", action.name, app_id, current=not action.streaming
        )

    def post_run_step(
        self, *, app_id: str, sequence_id: int, exception: BaseException | None, **_: object
    ) -> None:
        self.end((app_id, sequence_id), exception)
        if self.left is not None and not self.any_open:
            self.left(exception)


class _Application:
    """Runs of one application, one at a time. Nested method calls belong to the outermost one."""

    def __init__(self, handle: Handle, application: Any) -> None:
        self._handle, self._application = handle, application
        self._work: Work | None = None
        self.actions = _Actions(handle)

    def called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``method``: its outermost call is a run."""
        if is_coroutine_function(method):

            @functools.wraps(method)
            async def called_later(*arguments: Any, **options: Any) -> Any:
                if self._work is not None:
                    return await method(*arguments, **options)
                with _watching.recorded(self._begun(), self._left):
                    return await method(*arguments, **options)

            return called_later

        @functools.wraps(method)
        def called(*arguments: Any, **options: Any) -> Any:
            if self._work is not None:
                return method(*arguments, **options)
            with _watching.recorded(self._begun(), self._left):
                return method(*arguments, **options)

        return called

    def streamed(
        self, passed: Callable[..., Any], method: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Wrap ``method``, which yields its actions to the caller."""

        @functools.wraps(method)
        def streamed(*arguments: Any, **options: Any) -> Any:
            made = method(*arguments, **options)
            return made if self._work is not None else passed(made, self._begun(), self._end)

        return streamed

    def _begun(self) -> Work:
        tracker = getattr(self._application, "_tracker", None)
        name = str(getattr(tracker, "project_id", None) or "burr")
        self._work = _watching.begun(self._handle, "run", name, run_id=self._application.uid)
        return self._work

    def _left(self, error: BaseException | None) -> None:
        """End the run, or leave that to the streaming action that the call has started."""
        if error is None and self.actions.any_open:
            self.actions.left = self._end
        else:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        work, self._work, self.actions.left = self._work, None, None
        if work is not None:
            work.end(error)
