"""Dependencies: what is imported is declared, and what is declared is imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files, packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
BRINGS = {
    # The exporters are one project in several distributions, and the environment chooses among them.
    "opentelemetry-exporter-otlp": {
        "opentelemetry-exporter-otlp-common",
        "opentelemetry-exporter-otlp-proto-common",
        "opentelemetry-exporter-otlp-proto-grpc",
        "opentelemetry-exporter-otlp-proto-http",
        "grpcio",
    },
}
OF_THE_USER = {"trio", "pytest"}
"""Asked for only where the user's own program has loaded it."""
SHARED = ("opentelemetry", "google")


def imported() -> Iterator[str]:
    """Every module that a statement of src imports, conditional ones too."""
    for path in (ROOT / "src").rglob("*.py"):
        if "_demo_project" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def held(distribution: str) -> frozenset[str]:
    """The paths of its files."""
    return frozenset(map(str, files(distribution) or ()))


def brings(distribution: str, module: str) -> bool:
    path = module.replace(".", "/")
    return not held(distribution).isdisjoint((f"{path}.py", f"{path}/__init__.py"))


def used() -> set[str]:
    """The distributions that src imports."""
    owners, found = packages_distributions(), set[str]()
    for module in set(imported()):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top in ("spanbus", *OF_THE_USER):
            continue
        for owner in owners.get(
            top, [top]
        ):  # what is not installed here is named as it is imported
            if top not in SHARED or brings(owner, module):
                found.add(owner.lower().replace("_", "-"))
    return found


def test_declared_dependencies_are_those_that_are_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = {
        re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0].lower()
        for each in (*project["dependencies"], *(one for extra in extras for one in extra))
    }
    brought = set[str]().union(*BRINGS.values())
    there = used()
    assert there - declared - brought == set(), "imported, and not declared"
    for meta, parts in BRINGS.items():
        if parts & there:
            there.add(meta)
    assert declared - there == set(), "declared, and never imported"
