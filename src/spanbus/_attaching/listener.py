"""A subscriber for buses that call a method of their subscribers for each event type."""

from __future__ import annotations

import re
from collections.abc import Callable

from spanbus._attaching.observer import Observer
from spanbus._attaching.treatment import HOOK
from spanbus._reading.spelling import ending

_PREFIX = re.compile(r"(on|handle|visit|before|after)(?:_|(?=[A-Z]))")
_WORD_BY_PREFIX = {"before": "started", "after": "completed"}


class Listener:
    """A callable with a method for every event type: ``on_task_started``, ``handleTaskStarted``, ``task_started``, ...

    Each method passes an event of that type to the handle.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def __call__(self, *arguments: object, **options: object) -> object:
        return self._observer(*arguments, **options)

    def __reduce__(self) -> tuple[object, ...]:
        return Listener, (self._observer,)

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
    """Return the event type for a method name: ``task_started`` for ``on_task_started`` and ``before_task``."""
    found = _PREFIX.match(method)
    rest = method if found is None else method[found.end() :]
    word = None if found is None else _WORD_BY_PREFIX.get(found[1])
    return rest if word is None or ending(rest) is not None else f"{rest}_{word}"
