"""Helpers of adapters: wrap functions, methods and streams as work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from spanbus._attaching.methods import as_coroutine_function, is_coroutine_function
from spanbus._attaching.replace import in_place_of, replaced
from spanbus._attaching.work import Work

if TYPE_CHECKING:
    from spanbus import Handle


def around(function: Callable[..., Any], begun: Callable[[], Work]) -> Callable[..., Any]:
    """Wrap ``function`` so that each call is recorded as the work that ``begun`` starts. A coroutine function stays one."""
    if is_coroutine_function(function):

        @functools.wraps(function)
        async def called_later(*arguments: Any, **options: Any) -> Any:
            with recorded(begun()):
                return await function(*arguments, **options)

        return called_later

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        with recorded(begun()):
            return function(*arguments, **options)

    return called


@contextmanager
def recorded(
    work: Work, end: Callable[[BaseException | None], None] | None = None
) -> Generator[None]:
    """Make ``work`` current inside the block, and call ``end`` (by default that of ``work``) with its exception or None."""
    end = end or work.end
    try:
        with work.inside():
            yield
    except BaseException as error:
        end(error)
        raise
    end(None)


def wrapped(
    target: Any, name: str, wrap: Callable[[Any], Callable[..., Any]]
) -> Callable[[], None]:
    """Replace a method by ``wrap(method)``, on an object or for all instances of a class. Returns a function that undoes it."""
    if not isinstance(target, type):
        return replaced(target, name, wrap)
    original, own = inspect.getattr_static(target, name), name in vars(target)

    @functools.wraps(original)
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return wrap(MethodType(original, self))(*arguments, **options)

    wrapper = as_coroutine_function(method) if is_coroutine_function(original) else method
    ours = in_place_of(original, wrapper)
    setattr(target, name, ours)

    def undo() -> None:
        if vars(target).get(name) is ours:
            if own:
                setattr(target, name, original)
            else:
                delattr(target, name)

    return undo


def begun(handle: Handle, kind: str, name: str, **details: object) -> Work:
    """Return started work."""
    work = Work(handle, cast("Any", kind), name, details)
    work.begin()
    return work


def stream(
    made: Iterator[Any], work: Work, ended: Callable[[BaseException | None], None]
) -> Generator[Any, Any, Any]:
    """Yield the items of ``made``, which runs inside ``work``. The consumer's context is not changed."""
    error: BaseException | None = None
    try:
        while True:
            with work.inside():
                try:
                    one = next(made)
                except StopIteration as over:
                    return over.value
            yield one
    except BaseException as raised:
        error = raised
        raise
    finally:
        _close(made)
        ended(error)


async def async_stream(
    made: AsyncGenerator[Any, Any], work: Work, ended: Callable[[BaseException | None], None]
) -> AsyncGenerator[Any, Any]:
    """Like :func:`stream`, for an async generator."""
    error: BaseException | None = None
    try:
        while True:
            with work.inside():
                try:
                    one = await anext(made)
                except StopAsyncIteration:
                    return
            yield one
    except BaseException as raised:
        error = raised
        raise
    finally:
        with work.inside():
            await made.aclose()
        ended(error)


def _close(made: Iterator[Any]) -> None:
    if inspect.isgenerator(made):
        made.close()
