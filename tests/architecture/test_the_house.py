"""docs/architecture.md draws the tree that there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "spanbus"


def drawn() -> set[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text[text.index("src/spanbus/\n"):]
    found: set[str] = set()
    folder = ""
    for line in block[: block.index("```")].splitlines()[1:]:
        match = re.match(r"( +)([\w./]+)", line)
        if match is None:
            continue
        name = match[2]
        if len(match[1]) == 2:
            folder = name if name.endswith("/") else ""
            if not name.endswith("/"):
                found.add(name)
        elif name.endswith(".py"):
            found.add(folder + name)
    return found


def test_the_tour_names_every_module_and_no_other() -> None:
    there = {
        str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.py")
        if (path.name != "__init__.py" or path.parent == SOURCES) and path.relative_to(SOURCES).parts[0] not in ("cli", "demo_project")
    }
    assert drawn() == there


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    for path in SOURCES.rglob("*.py"):
        if "demo_project" in path.parts:
            continue
        first = path.read_text().lstrip("# \n").split("\n", 1)[0] if not path.read_text().startswith("#") else ""
        assert first.startswith('"""') or path.read_text().startswith("#"), path


def test_importing_spanbus_loads_no_telemetry() -> None:
    code = "import sys, spanbus; print([name for name in ('opentelemetry.sdk', 'grpc', 'requests', 'typer', 'rich', 'urllib3') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_instrumenting_loads_neither_grpc_nor_requests_nor_typer(tmp_path: Path) -> None:
    code = (
        "import sys, spanbus; bus = spanbus.WorkflowEventBus(); h = spanbus.instrument(bus); h.feed({'type': 'a.started'}); h.feed({'type': 'a.completed'})\n"
        "print([name for name in ('grpc', 'requests', 'typer', 'rich') if name in sys.modules])"
    )
    import os

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "SPANBUS_STATE_DIR": str(tmp_path)})
    assert done.stdout == "[]\n"


def test_no_machine_path_and_no_registry_address_is_written_anywhere() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        return
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if not path.is_file() or path.suffix in (".png", ".gz") or name == "tests/architecture/test_the_house.py":
            continue
        text = path.read_text(errors="replace")
        assert str(ROOT) not in text, name
        assert not re.search(r"--(extra-)?index-url|pythonhosted\.org|//pypi\.org/simple", text), name
