"""The function of a phase: which kinds can be run, and how its body is run to the end.

A function may be plain (it gets a thread), a coroutine function, a generator or an asynchronous generator: each is run until
it ends, and its return value is the phase's. A coroutine that gives another coroutine is awaited until a value comes.
What has no body of its own to run, such as a context manager, is refused when the phase is built.
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


def unusable(function: object) -> str | None:
    """Say why ``function`` cannot be the action of a phase; None where it can."""
    inner = _innermost(function)
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
    """Whether this is the class of a context manager."""
    return isinstance(function, type) and any(issubclass(function, kind) for kind in _MANAGERS)  # pyright: ignore[reportGeneralTypeIssues] - both have methods alone


async def call(function: Callable[..., object], *arguments: object, **options: object) -> object:
    """Run ``function`` to its end in the right place, a thread or this task, and return its value."""
    if _is(inspect.isasyncgenfunction, function):
        return await _settled(function(*arguments, **options))
    if _is(inspect.iscoroutinefunction, function):
        return await _settled(function(*arguments, **options))
    import anyio.to_thread  # not for who only reads definitions

    (value,) = await anyio.to_thread.run_sync(
        lambda: (_drained(function(*arguments, **options)),), abandon_on_cancel=True
    )  # in a tuple, because trio takes a coroutine that comes out of a thread for a mistake
    return await _settled(value)


def parameters_taken(function: Callable[..., object]) -> tuple[int, bool]:
    """Number of positional arguments that ``function`` takes, at most two, and whether it asks for ``event_bus``."""
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


def _innermost(function: object) -> object:
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function


def _is(question: Callable[[object], bool], function: object) -> bool:
    inner = _innermost(function)
    return question(inner) or question(getattr(type(inner), "__call__", None))  # noqa: B004


def _drained(value: object) -> object:
    """A generator run to its end; everything else as it is."""
    if not inspect.isgenerator(value):
        return value
    generator = cast("Generator[object, None, object]", value)
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


async def _settled(value: object) -> object:
    """The value behind coroutines and asynchronous generators, however many lie around it."""
    while True:
        if inspect.isasyncgen(value):
            async with aclosing(cast("AsyncGenerator[object]", value)) as generator:
                async for _ in generator:
                    pass
            return None
        if inspect.isgenerator(value):
            import anyio.to_thread

            value = await anyio.to_thread.run_sync(_drained, value, abandon_on_cancel=True)
        elif inspect.isawaitable(value):
            value = await cast("Coroutine[object, object, object]", value)
        elif isinstance(value, _MANAGERS) and isinstance(value, _DECORATORS):
            raise TypeError(
                "the function returned a context manager that nobody entered; use it with `with` inside the function"
            )
        else:
            return cast("object", value)
