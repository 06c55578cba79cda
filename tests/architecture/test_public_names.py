"""The public face: what can be imported without an underscore is a list that is read before it is changed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import spanbus

ROOT = Path(__file__).parents[2]
COMMITTED = Path(__file__).with_name("public_names.txt")
ROOMS = ("spanbus.adapters", "spanbus.integrations")


def public_modules() -> list[str]:
    found = [
        module.name
        for module in pkgutil.walk_packages(spanbus.__path__, "spanbus.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ]
    return ["spanbus", *sorted(found)]


def public_names(module: ModuleType) -> list[str]:
    """Names of what the module itself defines, or of what it exports with ``__all__``."""
    exported = getattr(module, "__all__", None)
    if exported is not None:
        return sorted(exported)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    )


def test_public_names_are_those_of_the_committed_list() -> None:
    there = [
        f"{name}.{each}"
        for name in public_modules()
        for each in public_names(importlib.import_module(name))
    ]
    committed = COMMITTED.read_text().splitlines()
    assert sorted(there) == sorted(committed), "a public name came or went: is it meant?"


def test_nothing_is_public_but_these_rooms() -> None:
    others = [
        name
        for name in public_modules()
        if name.removeprefix("spanbus.")
        not in ("spanbus", "testing", "dialects", "errors", "logging")
        and not name.startswith(ROOMS)
    ]
    assert others == []


def test_every_exported_name_can_be_imported() -> None:
    for name in dir(spanbus):
        assert getattr(spanbus, name) is not None, name


def test_no_public_docstring_begins_with_a_relative_clause() -> None:
    starts = re.compile(r"(What|Who|How|Whoever)\b")
    documented: dict[str, object] = {}
    for name in public_modules():
        module = importlib.import_module(name)
        documented[name] = module
        for each in public_names(module):
            documented[f"{name}.{each}"] = value = getattr(module, each)
            if inspect.isclass(value):
                documented |= {
                    f"{name}.{each}.{method}": member
                    for method, member in vars(value).items()
                    if not method.startswith("_")
                    and (inspect.isroutine(member) or isinstance(member, property))
                }
    assert len(documented) > 150
    assert [name for name, it in documented.items() if starts.match(inspect.getdoc(it) or "")] == []
