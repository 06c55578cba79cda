"""Replace a method of an object, and restore it.

The replacement is set on the instance if possible. Otherwise (``__slots__``, a property, a static or class method) a
descriptor is set on the class, which returns the replacement for this instance only.
"""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, Final, cast

from spanbus._attaching.methods import as_coroutine_function, is_coroutine_function, own_attributes
from spanbus._attaching.publication import weak_reference
from spanbus._attaching.weak_identity_map import WeakIdentityMap
from spanbus.errors import InputError

Wrapping = Callable[[Callable[..., object]], Callable[..., object]]

_STATE: Final = "__getstate__"
_BEFORE: Final = "__spanbus_before__"
_UNMARKED: Final = object()


class _Wrapper:
    """The wrapper that a replacement calls, and the object for which it does, if it is for one object only.

    A replacement refers to nothing else of spanbus. Pickled by value, as by cloudpickle for dask and joblib, it loses its
    wrapper: the unpickled function calls the original.
    """

    def __init__(self, function: Callable[..., object], thing: object = None) -> None:
        self.function: Callable[..., object] | None = function
        self.thing = thing

    def __reduce__(self) -> tuple[object, ...]:
        return SimpleNamespace, (), {"function": None, "thing": None}


def in_place_of(
    before: Callable[..., object], function: Callable[..., object]
) -> Callable[..., object]:
    """Return a replacement of ``before`` that calls ``function``. Pickled by value it calls ``before``."""
    ours = _Wrapper(function)

    @functools.wraps(before)
    def replacement(*arguments: object, **options: object) -> object:
        return (ours.function or before)(*arguments, **options)

    return as_coroutine_function(replacement) if is_coroutine_function(function) else replacement


def replaced(thing: object, name: str, wrap: Wrapping) -> Callable[[], None]:
    """Replace ``thing.name`` by ``wrap(thing.name)``; return a function that restores it.

    Raises :class:`~spanbus.errors.InputError` if neither the instance nor its class can be changed.
    """
    static = inspect.getattr_static(thing, name, None)
    if isinstance(thing, type):
        return _on_class(thing, name, wrap, None)  # a static or class method
    if name.startswith("__"):  # looked up on the class alone
        return _on_class(type(thing), name, wrap, thing)
    if not isinstance(thing, ModuleType) and isinstance(
        static, property | staticmethod | classmethod
    ):
        return _on_class(type(thing), name, wrap, thing)
    method = cast("Callable[..., object]", getattr(thing, name))
    own = own_attributes(thing)
    had, before = name in own, own.get(name)
    wrapped = in_place_of(method, wrap(method)) if had else _bound(thing, method, wrap(method))
    try:
        object.__setattr__(thing, name, wrapped)
    except (AttributeError, TypeError):
        try:
            setattr(thing, name, wrapped)  # modules, and classes with a __setattr__ of their own
        except Exception:
            return _on_class(type(thing), name, wrap, thing)
    if getattr(thing, name, None) is not wrapped:
        _restore(thing, name, had, before)
        return _on_class(type(thing), name, wrap, thing)
    undo = _undo(thing, name, wrapped, had, before)
    return undo if isinstance(thing, ModuleType) else _both(undo, _exclude_from_copies(thing))


def _bound(
    thing: object, method: Callable[..., object], wrapped: Callable[..., object]
) -> Callable[..., object]:
    """Return ``wrapped`` as a bound method, so that pickling and copying work; a copy of the object calls the original."""
    if not isinstance(method, MethodType) or method.__self__ is not thing:
        return in_place_of(method, wrapped)
    plain, ours = cast("Callable[..., object]", method.__func__), _Wrapper(wrapped, thing)

    @functools.wraps(plain)
    def replacement(itself: object, /, *arguments: object, **options: object) -> object:
        if itself is ours.thing and ours.function is not None:
            return ours.function(*arguments, **options)
        return plain(itself, *arguments, **options)

    return MethodType(
        as_coroutine_function(replacement) if is_coroutine_function(wrapped) else replacement, thing
    )


def is_function(kind: type, name: str) -> bool:
    """Whether a class defines this name as a Python function, possibly replaced by us."""
    static = cast("object", inspect.getattr_static(kind, name, None))
    return isinstance(static.before if isinstance(static, _PerInstance) else static, FunctionType)


def _undo(
    thing: object, name: str, wrapped: Callable[..., object], had: bool, before: object
) -> Callable[[], None]:
    """Return the function that restores the method. It refers to the object weakly if possible."""
    known, ours = weak_reference(thing), weakref.ref(wrapped)
    unbound(wrapped).__dict__[_BEFORE] = before

    def undo() -> None:
        there, function = known(), ours()
        if (
            there is not None
            and function is not None
            and own_attributes(there).get(name) is function
        ):
            _restore(there, name, had, unbound(function).__dict__[_BEFORE])

    return undo


def _exclude_from_copies(thing: object) -> Callable[[], None]:
    """Exclude the replaced methods from the state that ``copy`` and ``pickle`` get; return a function that undoes it.

    They are bound to the original object, so a shallow copy would publish on that one.
    """
    if _STATE in own_attributes(thing):
        return lambda: None

    def state_of(itself: object, /) -> object:
        kind: Any = type(itself)
        return _without_replaced(kind.__getstate__(itself))

    try:
        object.__setattr__(thing, _STATE, MethodType(state_of, thing))
    except (AttributeError, TypeError):
        return lambda: None
    return _undo(thing, _STATE, cast("MethodType", own_attributes(thing)[_STATE]), False, None)


def _without_replaced(state: object) -> object:
    """The state of an object, with its own methods; a tuple also has the values of its slots."""
    if isinstance(state, tuple):
        parts = cast("tuple[object, ...]", state)
        return (_without_replaced(parts[0]), *parts[1:])
    if not isinstance(state, dict):
        return state
    kept: dict[object, object] = {}
    for name, value in cast("dict[object, object]", state).items():
        function = unbound(value) if isinstance(value, FunctionType | MethodType) else None
        before = getattr(function, "__dict__", {}).get(_BEFORE, _UNMARKED)
        if before is _UNMARKED:
            kept[name] = value
        elif before is not None:
            kept[name] = before
    return kept


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def undo() -> None:
        first()
        second()

    return undo


def unbound(method: Callable[..., object]) -> Callable[..., object]:
    """Return the function of a bound method, or the function itself."""
    return method.__func__ if isinstance(method, MethodType) else method


def _restore(thing: object, name: str, had: bool, before: object) -> None:
    try:
        if had:
            object.__setattr__(thing, name, before)
        else:
            object.__delattr__(thing, name)
    except (AttributeError, TypeError):
        if had:
            setattr(thing, name, before)
        else:
            delattr(thing, name)


class _PerInstance:
    """Descriptor on a class: the original attribute, except for instances whose method was replaced.

    A static or class method is replaced for all instances.
    """

    def __init__(self, before: object) -> None:
        self.before = before
        self.shared = isinstance(before, staticmethod | classmethod)
        self.instances: WeakIdentityMap[Wrapping] = WeakIdentityMap()
        self.held: list[tuple[object, Wrapping]] = []
        """Wrappers of the class itself, and of instances without weak references."""

    def __reduce__(self) -> tuple[object, ...]:
        return operator.getitem, ((self.before,), 0)  # for a class that is pickled by value

    def __get__(self, instance: object, owner: type | None = None) -> object:
        bind = getattr(type(self.before), "__get__", None)
        bound: object = bind(self.before, instance, owner) if bind is not None else self.before
        wrap = self._wrapping(instance)
        return wrap(bound) if wrap and callable(bound) else bound

    def _wrapping(self, instance: object) -> Wrapping | None:
        if self.shared:
            return self.held[-1][1] if self.held else None
        if instance is None:
            return None
        found = self.instances.get(instance)
        return found or next((wrap for one, wrap in self.held if one is instance), None)

    def add(self, instance: object, wrap: Wrapping) -> None:
        try:
            if self.shared:
                raise TypeError
            self.instances.put(instance, wrap)
        except TypeError:
            self.held.append((instance, wrap))

    def remove(self, wrap: Wrapping) -> bool:
        """Remove a wrapper; return True when none is left."""
        self.instances.discard(wrap)
        self.held = [pair for pair in self.held if pair[1] is not wrap]
        return not self.held and not self.instances.values()


class _PerInstanceData(_PerInstance):
    """The same as a data descriptor, in place of a property."""

    def __set__(self, instance: object, value: object) -> None:
        type(self.before).__set__(self.before, instance, value)  # type: ignore[attr-defined]


def _on_class(kind: type, name: str, wrap: Wrapping, only: object | None) -> Callable[[], None]:
    before = inspect.getattr_static(kind, name, None)
    own = name in vars(kind)
    if isinstance(before, _PerInstance) and own:
        some = before
    else:
        some = (
            _PerInstanceData if hasattr(cast("object", type(before)), "__set__") else _PerInstance
        )(before)
        try:
            setattr(kind, name, some)
        except (AttributeError, TypeError) as error:
            raise InputError(
                f"{name} of {kind.__name__} cannot be replaced ({error}); subscribe yourself: "
                "spanbus.instrument(bus, subscribe=lambda observer: …)"
            ) from error
    some.add(only, wrap)

    def undo() -> None:
        if some.remove(wrap) and vars(kind).get(name) is some:
            if own:
                setattr(kind, name, some.before)
            else:
                delattr(kind, name)

    return undo
