"""The observer that is subscribed to a bus. Its deep and pickled copies report to no handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spanbus._attaching.answer import AnswerForm, AwaitableTrue, answer

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


class Observer:
    """Pass each call to a handle, and return an answer of the form that the bus can use.

    The methods do the same, for buses of sinks. The handle keeps its observer, so that buses with weak references do not lose it.
    """

    def __init__(self, handle: Handle | None, answer_form: AnswerForm = "unknown") -> None:
        self._handle = handle
        self._answer_form: AnswerForm = answer_form
        self.__name__ = self.__qualname__ = "observer"
        self.__annotations__: dict[str, object] = {}

    def __call__(self, *arguments: object, **options: object) -> bool | AwaitableTrue | None:
        handle = self._handle
        if handle is None:
            return answer(self._answer_form)
        handle.called(arguments, options)
        return answer(handle.answer_form)

    handle = on_event = handle_event = __call__

    def __reduce__(self) -> tuple[object, ...]:
        answer_form = self._answer_form if self._handle is None else self._handle.answer_form
        return Observer, (None, answer_form)


def awaited_observer_of(handle: Handle) -> Callable[..., object]:
    """Return the observer as a coroutine function."""

    async def observer(*arguments: object, **options: object) -> bool:
        handle.called(arguments, options)
        return True

    return observer
