"""Watch a stream of events that a program reads, and calls that are phases themselves. Both pass through unchanged."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from spanbus._attaching.methods import has, is_coroutine_function
from spanbus._attaching.publication import Publication, enter, leave, publications
from spanbus._attaching.replace import replaced
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


def watched(handle: Handle, stream: object) -> Any:
    """Return an iterator that feeds each event of ``stream`` and passes it on."""
    if isinstance(stream, AsyncIterable):
        return _watched_async(handle, cast("AsyncIterable[object]", stream))
    if isinstance(stream, Iterable):
        return _watched(handle, cast("Iterable[object]", stream))
    raise InputError(f"watching() takes an iterator of events, not {type(stream).__name__}")


async def _watched_async(
    handle: Handle, stream: AsyncIterable[object]
) -> AsyncGenerator[object, None]:
    with _one_publication(handle) as publication:
        async for event in stream:
            handle.stream_event(event, publication)
            yield event


def _watched(handle: Handle, stream: Iterable[object]) -> Generator[object, None, None]:
    with _one_publication(handle) as publication:
        for event in stream:
            handle.stream_event(event, publication)
            yield event


@contextmanager
def _one_publication(handle: Handle) -> Generator[Publication]:
    """One publication for all events of a stream; the work that they opened ends with the stream."""
    publication = Publication(handle.ref, "watching")
    publication.task = None  # any task may read the stream
    try:
        yield publication
    except GeneratorExit:
        raise  # the reader stopped early: nothing is known of the work
    except BaseException as error:
        handle.stream_ended(publication.opened, error)
        raise
    else:
        handle.stream_ended(publication.opened, None)


# --- calls ------------------------------------------------------------------------------------------------------------


@contextmanager
def calls_watched(
    handle: Handle, thing: object, method: str, name: Callable[..., object] | str | None
) -> Generator[None]:
    """Context manager: each call of the method is a phase."""
    if not has(thing, method):
        raise InputError(f"{type(thing).__name__} has no method {method!r} to watch")
    calls = _Calls(handle, method, name)
    undo = replaced(thing, method, calls.around)
    handle.add_undo(undo)
    try:
        yield
    finally:
        undo()


class _Calls:
    """Wraps one method so that each call is published as a phase."""

    def __init__(
        self, handle: Handle, method: str, name: Callable[..., object] | str | None
    ) -> None:
        self._handle, self._method, self._name = handle, method, name

    def around(self, method: Callable[..., object]) -> Callable[..., object]:
        if is_coroutine_function(method):

            @functools.wraps(method)
            async def called_later(*arguments: object, **options: object) -> object:
                with self._phase(arguments, options):
                    return await cast("Any", method(*arguments, **options))

            return called_later

        @functools.wraps(method)
        def called(*arguments: object, **options: object) -> object:
            with self._phase(arguments, options):
                return method(*arguments, **options)

        return called

    @contextmanager
    def _phase(self, arguments: tuple[object, ...], options: dict[str, object]) -> Generator[None]:
        name = self._name_of(arguments, options)
        publication = Publication(self._handle.ref, self._method)
        enter(publication, publications.get())
        self._publish(publication, "phase.started", {"phase": name})
        try:
            yield
        except BaseException as error:
            self._publish(publication, "phase.failed", {"phase": name, "error": error})
            raise
        else:
            self._publish(publication, "phase.completed", {"phase": name})
        finally:
            leave(publication)

    def _publish(self, publication: Publication, kind: str, payload: dict[str, object]) -> None:
        publication.running = True
        self._handle.published({"event_type": kind, "payload": payload}, publication)

    def _name_of(self, arguments: tuple[object, ...], options: dict[str, object]) -> str:
        try:
            if callable(self._name):
                return str(self._name(*arguments, **options))
            if self._name is not None:
                return str(self._name)
        except Exception as error:
            self._handle.failed(error)
        texts = (one for one in (*arguments, *options.values()) if isinstance(one, str))
        return next(texts, self._method)
