"""Prefect 3: a flow run is a run and a task run a phase, from the states that its engines set in this process."""

from __future__ import annotations

import functools
import sys
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.methods import is_coroutine_function
from spanbus._attaching.work import Work
from spanbus.adapters import _watching
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus import Handle

_ENGINES = (
    ("prefect.flow_engine", "FlowRunEngine"),
    ("prefect.flow_engine", "AsyncFlowRunEngine"),
    ("prefect.task_engine", "SyncTaskRunEngine"),
    ("prefect.task_engine", "AsyncTaskRunEngine"),
)
_WORK = "_spanbus_work"


def attach(target: Any, handle: Handle) -> None:
    """Record every flow and task that this process runs. ``target`` is the module ``prefect``."""
    if not isinstance(target, ModuleType):
        raise InputError(
            "instrument the module, which stands for all flows: spanbus.instrument(prefect)"
        )
    try:
        engines = [getattr(import_module(module), name) for module, name in _ENGINES]
    except (ImportError, AttributeError) as error:
        raise InputError(f"this is not Prefect 3: {error}") from error
    for engine in engines:
        for name, wrap in (("set_state", _set_state), ("run_context", _run_context)):
            handle.add_undo(_watching.wrapped(engine, name, functools.partial(wrap, handle)))


def _set_state(handle: Handle, method: Any) -> Callable[..., Any]:
    engine = method.__self__
    if is_coroutine_function(method.__func__):

        async def set_later(*arguments: Any, **options: Any) -> Any:
            state = await method(*arguments, **options)
            _heard(handle, engine, state)
            return state

        return set_later

    def set_now(*arguments: Any, **options: Any) -> Any:
        state = method(*arguments, **options)
        _heard(handle, engine, state)
        return state

    return set_now


def _run_context(handle: Handle, method: Any) -> Callable[..., Any]:
    """Wrap an attempt, so that the run's span is current in it."""
    engine = method.__self__

    def inside() -> Any:
        work: Work | None = getattr(engine, _WORK, None)
        return work.inside() if work is not None else nullcontext()

    if type(engine).__name__.startswith("Async"):

        @asynccontextmanager
        async def entered_later() -> AsyncGenerator[Any]:
            with inside():
                async with method() as entered:
                    yield entered

        return entered_later

    @contextmanager
    def entered() -> Generator[Any]:
        with inside(), method() as engine:
            yield engine

    return entered


def _heard(handle: Handle, engine: Any, state: Any) -> None:
    try:
        _tell(handle, engine, state)
    except Exception as error:
        handle.failed(error)


def _tell(handle: Handle, engine: Any, state: Any) -> None:
    work: Work | None = getattr(engine, _WORK, None)
    if work is None:
        if state.is_running():
            work = _work(handle, engine)
            setattr(engine, _WORK, work)
            work.begin()
        return
    again = state.is_running()
    if again or state.is_scheduled():
        if hasattr(engine, "flow"):
            return  # a retried flow stays one run; its repeated tasks have attempts
        if state.name != "Running":
            work.retry(sys.exception())
        if again:
            work.begin()
        return
    if not (state.is_final() or state.is_paused()):
        return
    delattr(engine, _WORK)
    if state.is_completed():
        if state.name == "Cached":
            work.skip(reason="cached")
        else:
            work.end()
    elif state.is_cancelled() or state.is_paused():
        work.end(CancelledError())
    elif state.name == "TimedOut":
        work.end(TimeoutError(str(state.message or "")))
    else:
        data = getattr(state.data, "result", state.data)  # a result record, or the result itself
        error = data if isinstance(data, BaseException) else sys.exception()
        if error is not None:
            work.end(error)
        else:
            work.fail(state.message)


def _work(handle: Handle, engine: Any) -> Work:
    """Return the work of an engine. A task run outside of a flow is a run of its own."""
    if hasattr(engine, "flow"):
        return Work(handle, "run", engine.flow.name, {"run_id": engine.flow_run.id})
    run, name = engine.task_run, engine.task.name
    if run.flow_run_id is None:
        return Work(handle, "run", name, {"run_id": run.id})
    doer = f"{run.flow_run_id} {run.task_key} {run.dynamic_key}"  # stays the same if the flow is retried
    return Work(handle, "phase", name, {"run_id": run.flow_run_id}, doer=doer)
