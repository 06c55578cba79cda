"""A listener: what is subscribed on a bus that calls a method of its subscribers for each type of events."""

from __future__ import annotations

import re
from collections.abc import Callable

from spanbus._attaching.delivery import HOOK
from spanbus._attaching.observer import Observer
from spanbus._reading.spelling import ending

_PREFIX = re.compile(r"(on|handle|visit|before|after)(?:_|(?=[A-Z]))")
_SAID_BY_PREFIX = {"before": "started", "after": "completed"}


class Listener:
    """Has a method ``on_task_started``, ``handleTaskStarted`` or ``task_started`` of every name that is asked for, which
    tells the handle an event of that type; and is a handler itself.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, *arguments: object, **options: object) -> object:
        return self._observer(*arguments, **options)

    def __reduce__(self) -> tuple[object, ...]:
        return Listener, (
            self._observer,
        )  # which tells nobody where it was copied deeply or pickled

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name in ("handle", "on_event", "handle_event"):
            return self._observer
        if name.startswith("_") or (HOOK.fullmatch(name) is None and ending(name) is None):
            raise AttributeError(name)
        observer, event_type = self._observer, type_of(name)

        def hook(*arguments: object, **options: object) -> object:
            return observer(event_type, *arguments, **options)

        return hook


def type_of(method: str) -> str:
    """The type of events that a method of this name is called for."""
    found = _PREFIX.match(method)
    rest = method if found is None else method[found.end() :]
    word = None if found is None else _SAID_BY_PREFIX.get(found[1])
    return rest if word is None or ending(rest) is not None else f"{rest}_{word}"
