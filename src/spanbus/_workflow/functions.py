"""Run the function of a phase to its end.

A function may be plain (it runs in a thread), a coroutine function, a generator or an async generator. Each runs until it
ends, and its return value is that of the phase. Nested awaitables are awaited. A callable without a body to run, such as a
context manager, is rejected when the phase is defined.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from functools import partial
from typing import cast

_MANAGERS = (contextlib.AbstractContextManager, contextlib.AbstractAsyncContextManager)
_DECORATORS = (contextlib.ContextDecorator, contextlib.AsyncContextDecorator)


def unusable_reason(function: object) -> str | None:
    """Return why ``function`` cannot be the action of a phase, None if it can."""
    inner = _unwrapped(function)
    if isinstance(inner, (*_MANAGERS, *_DECORATORS)) or _makes_managers(inner):
        return "is a context manager, which has no body to run; give the function that uses it"
    if getattr(inner, "__globals__", {}).get("__name__") == "contextlib":
        name = getattr(inner, "__name__", "it")
        return (
            f"{name} makes a context manager, whose body has nothing to run between; "
            f"write a function with `with {name}(): ...`"
        )
    return None


def _makes_managers(function: object) -> bool:
    """Whether ``function`` is a context manager class."""
    return isinstance(function, type) and any(issubclass(function, kind) for kind in _MANAGERS)  # pyright: ignore[reportGeneralTypeIssues] - both have methods alone


async def call(function: Callable[..., object], *arguments: object, **options: object) -> object:
    """Run ``function`` to its end, in a thread or in this task, and return its value."""
    if _matches(inspect.isasyncgenfunction, function):
        return await _resolve(function(*arguments, **options))
    if _matches(inspect.iscoroutinefunction, function):
        return await _resolve(function(*arguments, **options))
    import anyio.to_thread  # lazy: definitions alone do not need it

    (value,) = await anyio.to_thread.run_sync(
        lambda: (_run_generator(function(*arguments, **options)),), abandon_on_cancel=True
    )  # in a tuple, because trio rejects a coroutine as the result of a thread
    return await _resolve(value)


def parameters_taken(function: Callable[..., object]) -> tuple[int, bool]:
    """Return how many positional arguments ``function`` takes, at most two, and whether it takes ``event_bus``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1, False
    positional = sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name != "event_bus"
        for parameter in parameters
    )
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        positional = 2
    return min(2, positional), any(parameter.name == "event_bus" for parameter in parameters)


def _unwrapped(function: object) -> object:
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function


def _matches(question: Callable[[object], bool], function: object) -> bool:
    inner = _unwrapped(function)
    return question(inner) or question(getattr(type(inner), "__call__", None))  # noqa: B004


def _run_generator(value: object) -> object:
    """Run a generator to its end and return its value; return anything else unchanged."""
    if not inspect.isgenerator(value):
        return value
    generator = cast("Generator[object, None, object]", value)
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


async def _resolve(value: object) -> object:
    """Await coroutines and run generators, also nested ones, and return the final value."""
    while True:
        if inspect.isasyncgen(value):
            async with aclosing(cast("AsyncGenerator[object]", value)) as generator:
                async for _ in generator:
                    pass
            return None
        if inspect.isgenerator(value):
            import anyio.to_thread

            value = await anyio.to_thread.run_sync(_run_generator, value, abandon_on_cancel=True)
        elif inspect.isawaitable(value):
            value = await cast("Coroutine[object, object, object]", value)
        elif isinstance(value, _MANAGERS) and isinstance(value, _DECORATORS):
            raise TypeError(
                "the function returned a context manager that nobody entered; use it with `with` inside the function"
            )
        else:
            return cast("object", value)
