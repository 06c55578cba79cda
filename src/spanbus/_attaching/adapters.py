"""Find and load adapters: modules that know how to attach to the objects of one package.

An adapter is a module, or a function ``attach(target, handle)``, registered under the name of the package in the entry point
group ``spanbus.adapters``. Shipped adapters are modules of that name in :mod:`spanbus.adapters`. Adapters are loaded lazily,
when an object of their package is instrumented.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, cast

from spanbus._named_tuple import NamedTuple
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle

GROUP = "spanbus.adapters"
_NOT_PACKAGES = ("builtins", "__main__", "spanbus")


class Adapter(NamedTuple):
    """Adapter for the objects of a package, with the dialect for their events."""

    attach: Callable[[object, Handle], object]
    dialect: object

    def dialect_for(self, target: object) -> object:
        """Return the adapter's ``DIALECT``, or its result for ``target`` if it is callable; None for the default dialect."""
        return self.dialect(target) if callable(self.dialect) else self.dialect


_known: weakref.WeakKeyDictionary[type, str | None] = weakref.WeakKeyDictionary()


def adapter_of(thing: object) -> Adapter | None:
    """Load the adapter for an object's package; return None if there is none.

    Raises :class:`~spanbus.errors.InputError` if the adapter cannot be loaded.
    """
    if isinstance(thing, ModuleType):
        return _load(thing.__name__) if _find(thing.__name__) is not None else None
    kind = thing if isinstance(thing, type) else type(thing)
    if kind not in _known:
        modules = [str(getattr(one, "__module__", "")) for one in kind.__mro__]
        _known[kind] = next((name for name in modules if _find(name) is not None), None)
    module = _known[kind]
    return _load(module) if module is not None else None


def _find(module: str) -> EntryPoint | str | None:
    """Return the entry point, else the shipped adapter module, for the package of ``module``."""
    parts = module.split(".")
    if parts[0] in _NOT_PACKAGES or not parts[0]:
        return None
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    try:
        published = {point.name.replace("-", "_"): point for point in entry_points(group=GROUP)}
    except Exception:  # unreadable metadata of an installed package
        published = {}
    for name in names:
        if name in published:
            return published[name]
    shipped = f"{GROUP}.{parts[0]}"
    try:
        return shipped if find_spec(shipped) is not None else None
    except (ImportError, ValueError):  # no adapters ship with this installation
        return None


def _load(module: str) -> Adapter:
    found = _find(module)
    try:
        loaded: object = (
            found.load() if isinstance(found, EntryPoint) else import_module(str(found))
        )
    except Exception as error:
        raise InputError(
            f"the adapter for {module.partition('.')[0]} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    attach = getattr(loaded, "attach", loaded)
    if not callable(attach):
        raise InputError(
            f"the adapter for {module.partition('.')[0]} has no attach(target, handle)"
        )
    of = loaded if isinstance(loaded, ModuleType) else _module_of(attach)
    return Adapter(cast("Callable[[object, Handle], object]", attach), getattr(of, "DIALECT", None))


def _module_of(function: object) -> object:
    import sys

    return sys.modules.get(str(getattr(function, "__module__", "")))
