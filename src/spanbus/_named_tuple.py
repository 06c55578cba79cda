"""``typing.NamedTuple`` with a tenth of its import time: that one compiles a constructor and the annotations of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["NamedTuple"]

if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import _tuplegetter
    from functools import cache
    from types import FunctionType

    _GLOBALS = {"_new": tuple.__new__, "__name__": __name__}

    class _NamedTuple(tuple):
        """Common base of all named tuples."""

        __slots__ = ()
        _fields = ()

        @classmethod
        def _make(cls, values):
            """Create a tuple from a sequence."""
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
            return made

        def _replace(self, /, **changes):
            """Return a copy with some fields changed."""
            made = self._make(map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"Got unexpected field names: {list(changes)!r}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            shown = (f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"

        def __getnewargs__(self):
            return tuple(self)

    @cache
    def _constructor(count):
        """Return the code of a constructor for this number of fields, still without their names."""
        values = "".join(f"_{place}, " for place in range(count))
        # eval() of a text is faster than compile(), which first creates all ast classes
        return eval(f"lambda _cls, {values}: _new(_cls, ({values}))", {}).__code__

    class _NamedTupleMeta(type):
        """Creates a named tuple from a class body."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            code = _constructor(len(fields)).replace(
                co_varnames=("_cls", *fields),
                co_name="__new__",
                co_qualname=f"{body['__qualname__']}.__new__",
            )
            given = FunctionType(code, _GLOBALS, "__new__", tuple(defaults.values()))
            body |= {field: _tuplegetter(place, "") for place, field in enumerate(fields)}
            body |= {"__new__": given, "__match_args__": fields, "__slots__": ()}
            body |= {"_fields": fields, "_field_defaults": defaults}
            return type(name, (_NamedTuple,), body)

    class NamedTuple(metaclass=_NamedTupleMeta):
        """Base of named tuples in class statements; the created classes do not inherit from it."""
