"""The tap: wrappers around publishing methods that report each call to the handle.

Arguments, results and exceptions pass through unchanged, and no other method of the bus is called. Where events arrive by
subscription, the tap only identifies the publisher. Nested calls of tapped methods with the same event are one event.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from inspect import CO_VARARGS
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Protocol, cast

from spanbus._attaching.call import CallReader, is_event, is_life_cycle_event, is_type
from spanbus._attaching.current import follow
from spanbus._attaching.methods import as_coroutine_function, is_coroutine_function
from spanbus._attaching.publication import (
    Owner,
    Publication,
    Reader,
    enter,
    kind_of,
    leave,
    payload_of,
    publications,
)
from spanbus._loaded import is_instance_of

Arguments = tuple[object, ...]
Options = dict[str, object]
_BATCH_WORDS = ("batch", "many", "all", "events", "messages")


class TapTarget(Protocol):
    """The methods of a handle that a tap calls."""

    @property
    def ref(self) -> Owner: ...
    def published(self, event: object, publication: Publication) -> None: ...
    def waiting(self, publication: Publication) -> None: ...
    def failed(self, error: Exception) -> None: ...


class Tap:
    """Wraps publishing methods for one handle.

    ``feeds``: the tap delivers the events; otherwise they arrive by subscription and the tap only identifies the publisher.
    ``current``: phases become current for the task that publishes their start.
    """

    def __init__(self, handle: TapTarget, *, feeds: bool, current: bool) -> None:
        self._handle = handle
        self._feeds = feeds
        self._current = current

    def around(
        self, method: Callable[..., object], name: str, *, reader: Reader | None = None
    ) -> Callable[..., object]:
        """Return ``method`` wrapped. A coroutine function is still recognized as one by ``inspect`` and ``asyncio``.

        ``reader`` finds the event in the arguments of a call; by default :class:`CallReader` does.
        """
        read = reader or CallReader(method).event
        tapped = _Method(self._handle, method, name, read, self._feeds, self._current)
        if is_coroutine_function(method):

            @functools.wraps(method)
            def published_later(*arguments: object, **options: object) -> object:
                # not a coroutine function: the caller is the publisher, even if another task awaits the coroutine
                return tapped.call_async(arguments, options)

            return as_coroutine_function(published_later)

        @functools.wraps(method)
        def published(*arguments: object, **options: object) -> object:
            return tapped.call(arguments, options)

        return published


class _Method:
    """A tapped method; its calls are made here."""

    def __init__(
        self,
        handle: TapTarget,
        method: Callable[..., object],
        name: str,
        read: Reader,
        feeds: bool,
        current: bool,
    ) -> None:
        self._handle, self._method, self._name = handle, method, name
        self._feeds, self._current = feeds, current
        self._read = read
        self._coroutine = _renamed(name, getattr(method, "__qualname__", name), _Method._await_call)
        self._may_batch = any(word in _BATCH_WORDS for word in name.split("_"))
        code = getattr(getattr(method, "__func__", method), "__code__", None)
        self._is_variadic = isinstance(code, CodeType) and bool(code.co_flags & CO_VARARGS)

    def call(self, arguments: Arguments, options: Options) -> object:
        publication = self._begin(arguments, options)
        if publication is None:
            return self._method(*arguments, **options)
        try:
            if self._feeds:
                self._report(publication, arguments)
            result = self._method(*arguments, **options)
        except BaseException:
            self._report_unreceived(publication, arguments)
            raise
        finally:
            self._finish(publication)
        if self._current:
            if inspect.isawaitable(result) and not is_instance_of(
                result, "spanbus._workflow.receipts", "Receipt"
            ):
                return self._await_result(result, publication)
            self._follow(publication)
        return result

    def call_async(self, arguments: Arguments, options: Options) -> object:
        publication = self._begin(arguments, options)
        if publication is None:
            return self._method(*arguments, **options)
        return self._coroutine(self, publication, arguments, options)

    async def _await_call(
        self, publication: Publication, arguments: Arguments, options: Options
    ) -> object:
        stack = publications.get()
        if not (stack and stack[-1] is publication):  # awaited by another task
            enter(publication, stack)
        try:
            if self._feeds:
                self._report(publication, arguments)
            made: Any = self._method(*arguments, **options)
            return await made
        except BaseException:
            self._report_unreceived(publication, arguments)
            raise
        finally:
            self._finish(publication)
            if self._current:
                self._follow(publication)

    async def _await_result(self, result: object, publication: Publication) -> object:
        try:
            return await cast("CoroutineType[object, object, object]", result)
        finally:
            self._follow(publication)

    # --- reporting to the handle: none of these methods raises --------------------------------------------------------

    def _begin(self, arguments: Arguments, options: Options) -> Publication | None:
        """Enter a publication for this call; None if an outer call has already reported the event."""
        try:
            stack = publications.get()
            outer = stack[-1] if stack else None
            publication = Publication(
                self._handle.ref, self._name, (self._read, arguments, options)
            )
            if outer is not None and outer.running and outer.owner is self._handle.ref:
                outer.read()
                event = publication.read()
                if _is_same(outer, self._name, event, publication):
                    return None
                publication.pending = event if self._feeds else None
            elif self._feeds:
                publication.pending = publication.read()
                if (publication.pending is None or self._may_batch) and self._has_no_event(
                    publication.pending, arguments or options
                ):
                    return None
            enter(publication, stack)
            return publication
        except Exception as error:
            self._handle.failed(error)
            return None

    def _has_no_event(self, event: object, given: object) -> bool:
        """Whether a call publishes none itself: one without arguments delivers what is queued, one of a stream all of it."""
        if event is None:
            return not given
        return isinstance(event, Iterator | AsyncIterator)

    def _report(self, publication: Publication, arguments: Arguments) -> None:
        try:
            event, publication.pending = publication.pending, None
            batch = self._batch_of(event, arguments)
            if batch is None:
                self._handle.published(event, publication)
                return
            publication.received += 1
            for one in batch:
                publication.batch_ids |= frozenset(map(id, _identities(one)))
                self._handle.published(_batch_item(one), publication)
        except Exception as error:
            self._handle.failed(error)

    def _report_unreceived(self, publication: Publication, arguments: Arguments) -> None:
        """Report the event of a call in which another handler raised before the observer was called."""
        if not self._feeds and not publication.received:
            try:
                publication.pending = publication.read() or publication.as_event()
            except Exception as error:
                self._handle.failed(error)
            else:
                self._report(publication, arguments)

    def _batch_of(self, event: object, arguments: Arguments) -> Sequence[object] | None:
        """Return the events of a call that publishes several; None for a single event."""
        if isinstance(event, list) or (self._may_batch and isinstance(event, tuple)):
            return cast("Sequence[object]", event)
        if len(arguments) > 1 and (
            (self._may_batch and all(is_event(one) for one in arguments))
            or (self._is_variadic and all(map(is_life_cycle_event, arguments)))
        ):
            return arguments
        return None

    def _finish(self, publication: Publication) -> None:
        try:
            leave(publication)
            if not publication.received and not self._feeds:
                publication.read()
                self._handle.waiting(publication)
            publication.unread_call = None
        except Exception as error:
            self._handle.failed(error)

    def _follow(self, publication: Publication) -> None:
        try:
            follow(publication.opened)
        except Exception as error:
            self._handle.failed(error)


def _renamed(name: str, qualified: str, function: Callable[..., object]) -> Callable[..., object]:
    """Return a copy of ``function`` with this name, which Python shows in its "never awaited" warning."""
    plain = cast("FunctionType", function)
    named = FunctionType(plain.__code__, plain.__globals__, name)
    named.__qualname__ = qualified
    return named


def _is_same(outer: Publication, name: str, event: object, inner: Publication) -> bool:
    """Whether a nested call publishes the event of the outer one: by another method, or as part of a reported batch."""
    if outer.batch_ids:
        return id(event) in outer.batch_ids or id(inner.event) in outer.batch_ids
    if outer.method == name:
        return False
    if outer.event is inner.event:
        return True
    kinds = outer.kind or kind_of(outer.event), inner.kind or kind_of(event)
    return kinds[0] is not None and kinds[0] == kinds[1]


def _identities(one: object) -> tuple[object, ...]:
    """Return an event of a batch and its payload; a nested call for this event gets one of the two."""
    if isinstance(one, tuple):
        pair = cast("tuple[object, ...]", one)
        return (pair, *pair[1:2])
    payload = payload_of(one)
    return (one,) if payload is None else (one, payload)


def _batch_item(one: object) -> object:
    """Return an event of a batch; a pair is a type and a payload."""
    if isinstance(one, tuple) and len(one) == 2 and is_type(one[0]):  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
        return {"event_type": one[0], "payload": one[1]}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return one  # pyright: ignore[reportUnknownVariableType]
