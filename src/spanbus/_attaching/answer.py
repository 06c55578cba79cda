"""The answer that an observer gives to a bus: truthy, and awaitable where handlers are awaited."""

from __future__ import annotations

import sys
from collections import abc
from collections.abc import Generator
from types import TracebackType
from typing import Literal, Never

from spanbus._loaded import running_loop

AnswerForm = Literal["plain", "awaitable", "unknown", "nothing"]
"""``unknown`` is decided at each call: by whether an event loop runs in this thread. ``nothing`` is None, where what
handlers return decides on how the bus goes on."""


class AwaitableTrue(int):
    """True, for a bus that awaits its handlers.

    It can be awaited any number of times, in any loop, and gives True. Task constructors take it for a coroutine, and
    nothing is said when nobody awaits it.
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
    """True, in the form that the bus can use."""
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
