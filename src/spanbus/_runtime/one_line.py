"""Runtimes of one's own, and the one line, which opens the process's default runtime where there is none."""

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
    """A runtime for ``async with``: a setting is the argument of its name, else from ``settings``, else from environment,
    ``[tool.spanbus]`` and defaults.

    ``provide=True`` makes its TracerProvider the global one where the application has set none, so that spans of libraries
    land beneath the phases; otherwise the global one is left alone.

    Entering raises :class:`~spanbus.errors.SettingsError` for settings that cannot be used. Leaving delivers what can be
    delivered within the exit limit, also when cancelled; what is left waits in the spool.
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
    """The same for plain programs: ``with open_runtime_sync() as runtime``."""
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
    """The one line: each phase announced on ``bus`` becomes a span, each event a span event, counted and timed.

    With ``mode="auto"`` the task that publishes says to which run and phase an event belongs, where the event does not;
    ``wrap`` also makes phases current in that task, so that spans made inside nest; ``observe`` subscribes and nothing
    else. ``dialect`` says how events are read: by name, file, mapping or :class:`~spanbus.dialects.Dialect`.
    ``subscribe`` is called with the observer where you know how to subscribe to everything, and what it returns is used
    to leave. ``record`` names a file to which each event is written, redacted, as a line of JSON. A bus that is observed
    already gives the handle it has; None instead of a bus gives one to be fed by hand, ``handle.feed(event)``.

    Raises :class:`~spanbus.errors.InputError` for an object that offers no way in, with what it has and what to do; never
    raises into the workflow afterwards.
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
    """Every instance of a bus class, those to come too; ``detach`` on the handle takes it back."""
    return current_runtime().instrument_class(kind, mode=mode, dialect=dialect, record=record)


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until everything that this process spooled was acknowledged; False when that took longer than ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    return all([runtime.flush(max(0.0, deadline - time.monotonic())) for runtime in list(opened)])


def current_runtime() -> Runtime:
    """The runtime opened last, else the process's default one, opened now."""
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
