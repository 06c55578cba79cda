"""Return value of an observer: truthy, and awaitable where the bus awaits its handlers."""

from __future__ import annotations

import sys
from collections import abc
from collections.abc import Generator
from types import TracebackType
from typing import Literal, Never

from spanbus._loaded import running_loop

AnswerForm = Literal["plain", "awaitable", "unknown", "nothing"]
"""``plain``: True. ``awaitable``: :class:`AwaitableTrue`. ``unknown``: decided at each call, by whether an event loop runs
in this thread. ``nothing``: None, for buses whose behaviour depends on the results of their handlers."""


class AwaitableTrue(int):
    """A True that may be awaited, any number of times and in any event loop; the result is True.

    It is registered as a coroutine, so that tasks accept it, and causes no "never awaited" warning.
    """

    __slots__ = ()

    def __await__(self) -> Generator[object, None, Literal[True]]:
        return True
        yield

    def send(self, value: object) -> Never:
        del value
        raise StopIteration(True)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Never:
        if isinstance(kind, type):
            raise (value if isinstance(value, BaseException) else kind()).with_traceback(trace)
        raise kind.with_traceback(trace)

    def close(self) -> None: ...

    def __repr__(self) -> str:
        return "True"


abc.Coroutine.register(AwaitableTrue)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
AWAITABLE_TRUE = AwaitableTrue(1)


def answer(answer_form: AnswerForm) -> bool | AwaitableTrue | None:
    """Return the observer's result in the given form."""
    if answer_form == "nothing":
        return None
    if answer_form == "plain" or (answer_form == "unknown" and not _in_event_loop()):
        return True
    return AWAITABLE_TRUE


def _in_event_loop() -> bool:
    if running_loop() is not None:
        return True
    if "trio" not in sys.modules:
        return False
    from sniffio import AsyncLibraryNotFoundError, current_async_library

    try:
        current_async_library()
    except AsyncLibraryNotFoundError:
        return False
    return True
