"""dramatiq: a message sent inside a span is executed below that span; any other message is a run with one phase and its
attempts. Recorded by a middleware of the broker.
"""

from __future__ import annotations

import sys
import time
from asyncio import CancelledError
from importlib import import_module
from threading import local
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _jobs
from spanbus.errors import InputError
from spanbus.integrations._messages import Messages
from spanbus.integrations.executions import SENT_NS, Execution

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = _jobs.JOBS


def attach(broker: Any, handle: Handle) -> None:
    """Add a middleware to a broker. It is the outermost, so it sees the final outcome of a message."""
    if not hasattr(broker, "middleware"):
        raise InputError(f"instrument a broker, not {type(broker).__name__}")
    base: Any = import_module("dramatiq").Middleware
    middleware = type("SpanbusMiddleware", (_Messages, base), {})(handle)
    broker.middleware.insert(0, middleware)

    def undo() -> None:
        if middleware in broker.middleware:
            broker.middleware.remove(middleware)

    handle.add_undo(undo)


class _Messages:
    """Messages in progress, one for each thread, and messages that wait for their next attempt."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._messages = Messages(handle, "dramatiq")
        self._current = local()
        self._jobs = _jobs.Jobs(handle)

    def before_process_message(self, broker: Any, message: Any) -> None:
        try:
            message_id = message.message_id
            self._current.execution = self._messages.begin(
                message.options,
                message_id,
                message.actor_name,
                retries=message.options.get("retries"),
                queue=message.queue_name,
                redelivered=bool(getattr(message, "redelivered", False)),
            )
            if self._current.execution is not None:
                return
            work = self._jobs.begin(message_id, message.actor_name)
            self._current.running = (message_id, work, work.enter())
        except Exception as problem:
            self._handle.failed(problem)

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        """If the current message failed and is enqueued again, end its attempt now: another thread may start the next one
        before this one is reported. Any other message is sent by the current work.
        """
        running, error = getattr(self._current, "running", None), sys.exception()
        if running is None or running[0] != message.message_id:
            self._messages.send(message.options, message.message_id)
            return
        message.options[SENT_NS] = time.time_ns()
        if error is None:
            return
        work = self._left()
        if work is not None:
            self._jobs.again(message.message_id, work, _meant(error))

    def after_process_message(
        self,
        broker: Any,
        message: Any,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        execution = self._executed()
        if execution is not None:
            cut = type(exception).__name__ == "Shutdown"
            self._messages.end(execution, _meant(exception), cut=cut)
            return
        work = self._left()
        if work is not None:
            work.end(_meant(exception))

    def after_skip_message(self, broker: Any, message: Any) -> None:
        execution = self._executed()
        if execution is not None:
            self._messages.skip(execution)
            return
        work = self._left()
        if work is not None:
            work.skip()

    def _executed(self) -> Execution | None:
        """Return the execution of this thread and forget it."""
        execution: Execution | None = getattr(self._current, "execution", None)
        self._current.execution = None
        return execution

    def _left(self) -> Work | None:
        """Return the open work of this thread, if any, and leave its context."""
        running = getattr(self._current, "running", None)
        self._current.running = None
        if running is None:
            return None
        _, work, leave = running
        leave()
        return work


def _meant(exception: BaseException | None) -> BaseException | None:
    """Convert dramatiq's interrupts to Python's exceptions."""
    kind = type(exception).__name__
    if kind == "TimeLimitExceeded":
        return TimeoutError("the time limit of its actor")
    return CancelledError() if kind == "Shutdown" else exception
