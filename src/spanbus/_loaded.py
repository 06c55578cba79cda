"""Checks against classes and state of modules without importing them: no object can be of a class that was never loaded."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task


def is_instance_of(value: object, module: str, *classes: str) -> bool:
    """``isinstance(value, module.class)`` without importing the module."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    found: tuple[object, ...] = tuple([getattr(loaded, name, None) for name in classes])
    return isinstance(value, tuple([each for each in found if isinstance(each, type)]))


def is_subclass_of(kind: type, module: str, name: str) -> bool:
    """``issubclass(kind, module.name)`` without importing the module."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(kind, found)


def running_loop() -> AbstractEventLoop | None:
    """Return the running asyncio event loop of this thread, None without one."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return running() if running is not None else None


def current_task() -> Task[object] | None:
    """Return the current asyncio task, None without one."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return asyncio.current_task()
    except (RuntimeError, AttributeError):  # no running loop; or asyncio is still being imported
        return None
