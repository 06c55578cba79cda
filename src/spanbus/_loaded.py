"""Questions about modules that may not have been loaded: then nobody can have made anything of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task


def is_of(value: object, module: str, *classes: str) -> bool:
    """``isinstance`` without the import that it would take."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    found: tuple[object, ...] = tuple([getattr(loaded, name, None) for name in classes])
    return isinstance(value, tuple([each for each in found if isinstance(each, type)]))


def is_kind_of(kind: type, module: str, name: str) -> bool:
    """``issubclass`` without the import that it would take."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(kind, found)


def running_loop() -> AbstractEventLoop | None:
    """The event loop of asyncio that runs in this thread."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return running() if running is not None else None


def current_task() -> Task[object] | None:
    """The task of asyncio that runs in this thread."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except (RuntimeError, AttributeError):  # no loop runs here; it is being loaded just now
        return None
