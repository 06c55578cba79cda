"""Access to the fields of foreign objects, with a cache of the attributes that each class has.

The cache pays because a missing attribute of a pydantic-like object costs ten microseconds: its class has ``__getattr__``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, cast

from spanbus._loaded import is_instance_of

_MISSING: Final = object()
_CLASSES_CACHED: Final = 1_000
_FIELDLESS: Final = (str, int, float, list, set, type)
WITHOUT_FIELDS: Final = (str, bytes, int, float, list, tuple, set)
"""Classes of values without fields of their own."""
_LISTS: Final = (list, tuple)
TEXTS: Final = (str, bytes, bytearray)
"""Classes that may hold JSON text."""
_MAX_JSON_CHARS: Final = 65_536
"""Longest text that is parsed as JSON; parsing one takes the publisher about a millisecond."""

Getter = Callable[[str], object]


class _Shape:
    """Cached knowledge of one class: its declared fields and the attributes that its objects have."""

    __slots__ = ("fields", "is_keyed", "is_mapping", "kind", "known")

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.is_keyed = issubclass(kind, Mapping)
        self.is_mapping = self.is_keyed and hasattr(kind, "get")
        """A complete mapping; some classes are registered as ``Mapping`` and lack ``get``."""
        self.known: dict[str, bool] = {}
        """By name: whether the class provides the attribute, besides entries of the instance dictionary."""
        self.fields = _field_names(kind)

    def has(self, name: str, thing: object) -> bool:
        """Whether objects of the class have this attribute; decided by the first object."""
        known = self.known.get(name)
        if known is None:
            import inspect  # loaded for foreign classes only

            known = (
                inspect.getattr_static(self.kind, name, _MISSING) is not _MISSING
                or _attribute(thing, name) is not None
            )
            if len(self.known) < 256:
                self.known[name] = known
        return known


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the fields that a class declares, None if only the instance dictionary knows them."""
    of_message: Any = getattr(getattr(kind, "DESCRIPTOR", None), "fields_by_name", None)
    if of_message is not None:  # of protobuf
        return tuple([str(name) for name in of_message])
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses

        return tuple([field.name for field in dataclasses.fields(kind)])
    if issubclass(kind, tuple):
        names: object = getattr(cast("type", kind), "_fields", None)
        return _strings(cast("tuple[object, ...]", names)) if isinstance(names, tuple) else None
    found: list[str] = []
    for each in reversed(kind.__mro__):
        slots: object = vars(each).get("__slots__")
        if isinstance(slots, str):
            found.append(slots)
        elif isinstance(slots, tuple | list):
            found.extend(_strings(cast("tuple[object, ...]", slots)))
    return tuple([name for name in found if not name.startswith("__")]) or None


def _strings(names: object) -> tuple[str, ...]:
    return tuple([name for name in cast("tuple[object, ...]", names) if isinstance(name, str)])


_shapes: dict[type, _Shape] = {}


def _shape_of(kind: type) -> _Shape:
    shape = _shapes.get(kind)
    if shape is None:
        if len(_shapes) >= _CLASSES_CACHED:
            _shapes.clear()
        shape = _shapes[kind] = _Shape(kind)
    return shape


def getter(source: object) -> Getter:
    """Return a function that looks up a field of ``source`` by name. It returns None for a missing field and never raises."""
    if type(source) is dict:
        return cast("dict[str, object]", source).get
    shape = _shape_of(type(source))
    if shape.is_mapping:
        return cast("Mapping[str, object]", source).get
    own: Any = getattr(source, "__dict__", None)
    fields: dict[str, object] = own if type(own) is dict else {}  # pyright: ignore[reportUnknownVariableType] - a cast costs a call
    known = shape.known

    def get(name: str) -> object:
        if name in fields:
            return fields[name]
        if name in known:
            return _attribute(source, name) if known[name] else None
        return _attribute(source, name) if shape.has(name, source) else None

    return get


def is_other_mapping(thing: object) -> bool:
    """Whether ``thing`` is a mapping other than a plain dictionary."""
    return type(thing) is not dict and _shape_of(type(thing)).is_mapping


def has_attribute(thing: object, name: str) -> bool:
    """Whether the class of an object provides this attribute, apart from the instance dictionary."""
    shape = _shape_of(type(thing))
    return not shape.is_mapping and shape.has(name, thing)


def _attribute(thing: object, name: str) -> object:
    try:
        return getattr(thing, name, None)
    except Exception:  # a failing property of a foreign class
        return None


def mapping_of(value: object) -> Mapping[str, object] | None:
    """Return the fields of a mapping or an object by name, None for a value without fields."""
    if value is None:
        return None
    if type(value) is dict:
        return cast("dict[str, object]", value)
    if isinstance(value, _FIELDLESS):
        return None
    shape = _shape_of(type(value))
    if shape.is_mapping:
        return cast("Mapping[str, object]", value)
    if shape.is_keyed:
        return {key: cast("Any", value)[key] for key in cast("Mapping[str, object]", value)}
    names = shape.fields
    own: object = getattr(value, "__dict__", None)
    if type(own) is dict and (names is None or not hasattr(type(value), "__dataclass_fields__")):
        fields = cast("dict[str, object]", own)
        return fields if names is None else {**_fields(value, names), **fields}
    return _fields(value, names) if names else None


def _fields(value: object, names: tuple[str, ...]) -> dict[str, object]:
    return {name: _attribute(value, name) for name in names}


def text_of(value: object) -> str | None:
    """Return a foreign value as text, None for other objects: ``repr`` and ``str`` of live objects are not called."""
    if value is None or type(value) is str:
        return value
    if isinstance(value, str):
        return str(value.value) if isinstance(value, Enum) else value
    if isinstance(value, Enum):
        return str(value.value) if isinstance(value.value, str) else value.name
    if is_instance_of(value, "uuid", "UUID"):
        return str(value)
    if isinstance(value, bool):
        return None
    if (
        isinstance(value, int | float)
        or is_instance_of(value, "decimal", "Decimal")
        or is_instance_of(value, "datetime", "date")
    ):
        return str(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return value.__name__
    from numbers import Integral  # numpy integers

    return str(int(value)) if isinstance(value, Integral) else None


def name_of(value: object) -> str | None:
    """Return a foreign value as a name: its text, or the ``name`` or ``id`` of an object or mapping."""
    text = text_of(value)
    if text is not None or value is None or isinstance(value, bool | list | tuple | set):
        return text
    get = getter(value)
    return text_of(get("name")) or text_of(get("id"))


def decoded(value: object) -> object:
    """Return the content of a JSON object where ``value`` is its text; else ``value``."""
    if not isinstance(value, TEXTS) or len(value) > _MAX_JSON_CHARS:
        return value
    if value[:1] not in ("{", b"{"):
        return value
    try:
        return cast("object", json.loads(value))
    except (ValueError, RecursionError):
        return value


def is_true(value: object) -> bool:
    """Return ``bool(value)``; True for an object that raises, such as an array of numbers."""
    try:
        return bool(value)
    except Exception:
        return True


def texts_of(value: object) -> tuple[str, ...]:
    """Return the items of a foreign list as texts; empty for anything else."""
    if value is None or not isinstance(value, _LISTS):
        return ()
    return tuple([str(each) for each in cast("Sequence[object]", value)])
