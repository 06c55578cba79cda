"""Whether a value is of a class whose module may not have been loaded: then nobody can have made one."""

from __future__ import annotations

import sys


def is_of(value: object, module: str, *classes: str) -> bool:
    """``isinstance`` without the import that it would take."""
    loaded = sys.modules.get(module)
    if loaded is None:
        return False
    found: tuple[object, ...] = tuple([getattr(loaded, name, None) for name in classes])
    return isinstance(value, tuple([each for each in found if isinstance(each, type)]))
