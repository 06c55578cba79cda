"""The observer: what is subscribed on a bus. Copied deeply or pickled with it, it is one that tells nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from spanbus._attaching.answer import Answering, Heard, answer

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


class Observer:
    """Called with an event in any form it tells its handle, and gives the answer that the bus can use; a sink for buses that
    call a method. An object of its own, so that it is there for buses that refer to their handlers weakly.
    """

    def __init__(self, handle: Handle | None, answering: Answering = "unknown") -> None:
        self._handle = handle
        self._answering: Answering = answering
        self.__name__ = self.__qualname__ = "observer"
        self.__annotations__: dict[str, object] = {}

    def __call__(self, *arguments: object, **options: object) -> bool | Heard | None:
        handle = self._handle
        if handle is None:
            return answer(self._answering)
        handle.called(arguments, options)
        return answer(handle.answering)

    handle = on_event = handle_event = __call__

    def __reduce__(self) -> tuple[object, ...]:
        answering = self._answering if self._handle is None else self._handle.answering
        return Observer, (None, answering)


def awaited_observer_of(handle: Handle) -> Callable[..., object]:
    """The observer as a coroutine function."""

    async def observer(*arguments: object, **options: object) -> bool:
        handle.called(arguments, options)
        return True

    return observer
