"""Invoke: an execution of tasks is a run, and each task a phase, including tasks called by other tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle


def attach(target: Any, handle: Handle) -> None:
    """Record all executors of this process, Fabric's too, if it is the module; otherwise one executor or executor class."""
    executor = import_module("invoke").Executor if isinstance(target, ModuleType) else target
    if not hasattr(executor, "expand_calls"):
        raise InputError(
            f"{type(target).__name__} executes no tasks; in your tasks.py: spanbus.instrument(invoke)"
        )
    executed = functools.partial(_executed, handle)
    called = functools.partial(_called, handle)
    handle.add_undo(_watching.wrapped(executor, "execute", executed))
    handle.add_undo(_watching.wrapped(import_module("invoke").Task, "__call__", called))


def _executed(handle: Handle, method: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def execute(*tasks: Any) -> Any:
        name = getattr(method.__self__.collection, "name", None) or "invoke"
        return _done(_watching.begun(handle, "run", str(name)), method, tasks, {})

    return execute


def _called(handle: Handle, method: Any) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        work = Work(handle, "phase", method.__self__.name, {})
        if work.run_id is None:  # called directly, not by an executor
            return method(*arguments, **options)
        work.begin()
        return _done(work, method, arguments, options)

    return call


def _done(work: Work, method: Any, arguments: Any, options: Any) -> Any:
    def end(error: BaseException | None) -> None:
        work.end(None if error is not None and _is_success(error) else error)

    with _watching.recorded(work, end):
        return method(*arguments, **options)


def _is_success(error: BaseException) -> bool:
    """Whether the exception is an exit with status 0."""
    code = error.code if isinstance(error, SystemExit) else getattr(error, "code", 1)
    return type(error).__name__ in ("Exit", "SystemExit") and code in (0, None)
