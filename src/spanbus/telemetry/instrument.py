"""Attach to a bus, report what was seen, detach.

Two ways in. *Observe*: one wildcard subscription with a plain function that returns True, which works on any bus with
``subscribe``. *Wrap*: ``publish`` is wrapped too, and the context of a phase is current in the task that published its
start until that task publishes its end, so that spans made inside the phase nest under it, through ``to_thread`` too.
The observed bus is never published on, its events are never changed, and nothing here raises into it.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, cast

from spanbus.errors import InputError
from spanbus.telemetry.by_identity import ByIdentity
from spanbus.telemetry.handle import Handle
from spanbus.telemetry.subscribing import subscribe
from spanbus.telemetry.wrapping import publishing, wrapping

Mode = Literal["observe", "wrap"]


_watched: ByIdentity[Handle] = ByIdentity()
_watching = threading.RLock()


def watching(bus: object) -> Handle | None:
    """The handle that observes this bus already, if any."""
    handle = _watched.get(bus)
    return handle if handle is not None and not handle.detached else None


def _watch(bus: object, handle: Handle) -> None:
    try:
        _watched.put(bus, handle)
        weakly: Callable[[], object] = weakref.ref(bus)
    except TypeError:  # not weakly referable: cannot be known again
        return
    handle.add_undo(lambda: _watched.forget(weakly()))


def attach(bus: object, handle: Handle, *, mode: Mode = "observe") -> Handle:
    """Subscribe ``handle`` to every event of ``bus``; in ``wrap`` mode also make phases current for their publisher.

    Without a bus the handle waits to be fed. Raises :class:`~spanbus.errors.InputError`, with nothing subscribed, when the
    object has no way in that we know.
    """
    if handle.off:
        return handle
    if bus is None:
        handle.expect_nothing()
        return handle
    try:
        subscribe(bus, handle)
        _watch(bus, handle)
        if mode == "wrap":
            _wrap_publish(bus, handle)
    except Exception:
        handle.expect_nothing()
        handle.detach()
        raise
    return handle


def _wrap_publish(bus: object, handle: Handle) -> None:
    name = publishing(type(bus))
    publish = getattr(bus, name, None)
    if not callable(publish):
        raise InputError(f"{type(bus).__name__} has no publish() to wrap; use mode='observe'")
    had = name in getattr(bus, "__dict__", {})
    wrapped = wrapping(publish)
    try:
        object.__setattr__(bus, name, wrapped)
    except AttributeError as error:
        raise InputError(f"publish of {type(bus).__name__} cannot be replaced on the instance; use spanbus.instrument_class") from error

    def undo() -> None:
        if had:
            object.__setattr__(bus, name, publish)
        elif getattr(bus, "__dict__", {}).get(name) is wrapped:
            object.__delattr__(bus, name)

    handle.add_undo(undo)


def attach_class(kind: type, handle: Handle) -> Handle:
    """Wrap ``publish`` on a bus class: every instance, those to come too, is observed and wrapped.

    Instances with a handle of their own are left to it. Raises :class:`~spanbus.errors.InputError` when the class has no
    ``publish``, or is instrumented already.
    """
    if handle.off:
        return handle
    name = publishing(kind)
    publish = inspect.getattr_static(kind, name, None)
    if publish is None or not callable(getattr(kind, name, None)):
        raise InputError(f"class {kind.__name__} has no publish() to wrap")
    if getattr(publish, "_spanbus", None) is not None:
        raise InputError(f"class {kind.__name__} is instrumented already; detach its handle first")
    own = name in vars(kind)
    original = cast("Callable[..., object]", getattr(kind, name))

    def way_in(bus: object) -> Callable[[tuple[object, ...], Mapping[str, object]], None] | None:
        with _watching:
            if watching(bus) is not None:
                return None
            try:
                _watched.put(bus, handle)  # first of all: what cannot be known again would be subscribed to again
                subscribe(bus, handle)
            except (TypeError, InputError):  # no way to subscribe: what publish is told is all there is
                _watched.forget(bus)
                return handle.called
            except Exception as error:
                handle.failed(error)
            return None

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def published_later(bus: object, *arguments: object, **options: object) -> object:
            return await cast("Awaitable[object]", wrapping(functools.partial(original, bus), way_in(bus))(*arguments, **options))

        published: Callable[..., object] = published_later
    else:

        @functools.wraps(original)
        def published_now(bus: object, *arguments: object, **options: object) -> object:
            return wrapping(functools.partial(original, bus), way_in(bus))(*arguments, **options)

        published = published_now
    setattr(published, "_spanbus", handle)  # noqa: B010 - a mark on a function
    setattr(kind, name, published)

    def undo() -> None:
        if vars(kind).get(name) is published:
            if own:
                setattr(kind, name, publish)
            else:
                delattr(kind, name)

    handle.add_undo(undo)
    return handle
