"""Functions of an unknown object, their syntax trees, and their global and closure variables. Nothing is called."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from typing import cast

from spanbus._attaching.methods import codes


def with_callees(functions: Iterable[FunctionType]) -> list[FunctionType]:
    """Return the functions and those in their global and closure variables."""
    found = dict.fromkeys(map(function_of, functions))
    for function in list(found):
        if function is not None:
            beside = (function_of(one) for one in variables_of(function).values())
            found.update(dict.fromkeys(beside))
    return [one for one in found if one is not None]


def variables_of(function: FunctionType) -> dict[str, object]:
    """Return the global and closure variables that a function uses."""
    code = function.__code__
    names = {name for one in codes(code) for name in one.co_names}
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            known[name] = cell.cell_contents
        except ValueError:  # not yet set
            known[name] = None
    return known


def self_name(function: FunctionType) -> str:
    """Return the name of a method's ``self`` parameter; empty for a plain function."""
    code, around = function.__code__, function.__qualname__.rpartition(".")[0]
    is_method = bool(around) and not around.endswith("<locals>") and code.co_argcount > 0
    return code.co_varnames[0] if is_method else ""


def functions_of(kind: type) -> Iterator[FunctionType]:
    """Yield the functions of a class and of its bases, without those overridden by a function that does not call super()."""
    replaced: set[str] = set()
    for one in kind.__mro__:
        if str(one.__module__).partition(".")[0] in sys.stdlib_module_names:
            continue
        for name, found in vars(one).items():
            function = None if name in replaced else function_of(found)
            if function is not None:
                if "super" not in function.__code__.co_names:
                    replaced.add(name)
                yield function


def function_of(found: object) -> FunctionType | None:
    """Return the plain function behind a method or decorator, None if there is none."""
    while isinstance(found, staticmethod | classmethod | MethodType):
        found = cast("object", found.__func__)  # pyright: ignore[reportUnknownMemberType]
    found = inspect.unwrap(found) if callable(found) else found
    return found if isinstance(found, FunctionType) else None


def tree_of(function: FunctionType | None) -> ast.AST | None:
    """Return the syntax tree of a function, None without source or if the source file has changed since."""
    if function is None:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    first = tree.body[0] if tree.body else None
    name = getattr(
        first, "name", function.__code__.co_name
    )  # the statement of a lambda has no name
    return tree if name == function.__code__.co_name else None
