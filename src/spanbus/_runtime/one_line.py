"""Public functions: open a runtime, or instrument a bus with the current or default one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from spanbus._runtime.opened import opened
from spanbus._runtime.runtime import Lifetime, Runtime
from spanbus._settings import Settings
from spanbus._settings.arguments import Arguments

if TYPE_CHECKING:
    from spanbus._attaching.attach import Mode, Subscribing
    from spanbus._attaching.handle import Handle
    from spanbus._runtime.dialects import DialectLike

_default: Runtime | None = None
_default_lock = threading.Lock()


def open_runtime(
    settings: Settings | None = None,
    *,
    lifetime: Lifetime = "service",
    command_line: bool = False,
    provide: bool = False,
    env: Mapping[str, str] | None = None,
    **arguments: Unpack[Arguments],
) -> Runtime:
    """Return a runtime for ``async with``.

    A setting comes from the keyword argument of its name, else from ``settings``, else from environment, ``[tool.spanbus]`` and
    defaults.

    ``provide=True`` makes its TracerProvider the global one if the application has set none, so that spans of libraries become
    children of the phases. Otherwise the global provider is left alone.

    Entering raises :class:`~spanbus.errors.SettingsError` for unusable settings. Leaving delivers within the exit limit, also
    when cancelled; undelivered records wait in the spool.
    """
    return Runtime(
        settings,
        lifetime=lifetime,
        command_line=command_line,
        provide=provide,
        env=env,
        **arguments,
    )


def open_runtime_sync(
    settings: Settings | None = None,
    *,
    lifetime: Lifetime = "service",
    command_line: bool = False,
    provide: bool = False,
    env: Mapping[str, str] | None = None,
    **arguments: Unpack[Arguments],
) -> AbstractContextManager[Runtime]:
    """:func:`open_runtime` for synchronous programs: ``with open_runtime_sync() as runtime``."""
    return Runtime(
        settings,
        lifetime=lifetime,
        command_line=command_line,
        provide=provide,
        env=env,
        **arguments,
    )


def instrument(
    bus: object,
    *,
    mode: Mode = "auto",
    dialect: DialectLike | None = None,
    subscribe: Subscribing | None = None,
    record: str | Path | None = None,
) -> Handle:
    """Instrument ``bus``: each announced phase becomes a span, each event a span event, counted and timed.

    With ``mode="auto"``, an event without run or phase belongs to those of the publishing task. ``wrap`` also makes phases
    current in that task, so that spans made inside nest. ``observe`` only subscribes.

    ``dialect`` decides how events are read: a name, file, mapping or :class:`~spanbus.dialects.Dialect`. ``subscribe``, if
    given, is called with the observer to subscribe it to all events; its return value is used to unsubscribe. ``record`` is a
    file to which each event is written, redacted, as a line of JSON.

    A bus that is observed already returns its handle. None instead of a bus returns a handle to feed by hand with
    ``handle.feed(event)``.

    Raises :class:`~spanbus.errors.InputError` for an object that cannot be observed; the message lists what it has and what to
    do. Never raises into the workflow afterwards.
    """
    return current_runtime().instrument(
        bus, mode=mode, dialect=dialect, subscribe=subscribe, record=record
    )


def instrument_class(
    kind: type,
    *,
    mode: Mode = "wrap",
    dialect: DialectLike | None = None,
    record: str | Path | None = None,
) -> Handle:
    """Instrument every instance of a bus class, including future ones; ``detach`` on the handle undoes it."""
    return current_runtime().instrument_class(kind, mode=mode, dialect=dialect, record=record)


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until all records of this process are acknowledged; False when that took longer than ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    return all([runtime.flush(max(0.0, deadline - time.monotonic())) for runtime in list(opened)])


def current_runtime() -> Runtime:
    """The runtime opened last, else the process's default one, which is opened if needed."""
    global _default
    if opened:
        return opened[-1]
    with _default_lock:
        if _default is None or _default not in opened:
            _default = Runtime().open()
        return _default


def _forked() -> None:
    global _default_lock
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
