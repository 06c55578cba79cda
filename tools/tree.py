"""Generate the two trees of docs/architecture.md, rooms and modules, from the first lines of docstrings.

``python tools/tree.py`` writes the page, ``--check`` compares.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "spanbus"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "```text\nsrc/spanbus/\n", "```"
DATA = "_demo_project"
COLUMN = 27


def first_line(path: Path) -> str:
    """The first line of a module's docstring, without its full stop."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0].rstrip(".")


def line(indent: int, name: str, brief: str) -> str:
    return f"{' ' * indent}{name}".ljust(COLUMN) + f" {brief}".rstrip() + "\n"


def rooms() -> str:
    """One line for each public module and room."""
    public = [path for path in SOURCES.glob("*.py") if not path.name.startswith("_")]
    drawn = "".join(line(2, path.name, first_line(path)) for path in sorted(public))
    for room in sorted(path.parent for path in SOURCES.glob("*/__init__.py")):
        drawn += line(2, f"{room.name}/", first_line(room / "__init__.py"))
    return drawn + line(2, f"{DATA}/", "The project that `spanbus demo` runs")


def modules() -> str:
    """One line for each module outside and inside the rooms, in alphabetical order."""
    top = sorted(path for path in SOURCES.glob("_*.py"))
    drawn = "".join(line(2, path.name, first_line(path)) for path in top)
    for room in sorted(path.parent for path in SOURCES.glob("*/__init__.py")):
        drawn += line(2, f"{room.name}/", "")
        for path in sorted(room.rglob("*.py")):
            if path != room / "__init__.py":
                drawn += line(4, str(path.relative_to(room)), first_line(path))
    return drawn


def main() -> int:
    found = page = PAGE.read_text(encoding="utf-8")
    if page.count(BEGIN) == 1:  # an older page
        page += f"\n## Every module\n\n{BEGIN}{END}\n"
    wanted, end = "", 0
    for tree in (rooms(), modules()):
        begin = page.index(BEGIN, end) + len(BEGIN)
        wanted += page[end:begin] + tree
        end = page.index(END, begin)
    wanted += page[end:]
    if wanted == found:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE.relative_to(ROOT)} is out of date; run python tools/tree.py")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
