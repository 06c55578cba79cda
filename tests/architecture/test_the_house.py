"""docs/architecture.md draws the tree that there is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from spanbus._backend.address import FILE_NAME
from spanbus._backend.forward import FORWARD
from spanbus._delivery import spool_files
from spanbus._delivery.dead_letters import REFUSED
from spanbus._delivery.ledger import LEDGER
from spanbus._settings import STORE_NAME
from spanbus._store import output

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
SOURCES = ROOT / "src" / "spanbus"


def test_the_tour_draws_the_tree_that_is_there() -> None:
    tree = [sys.executable, str(ROOT / "tools" / "tree.py"), "--check"]
    done = subprocess.run(tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_says_in_its_first_line_what_it_is() -> None:
    modules = [path for path in SOURCES.rglob("*.py") if "_demo_project" not in path.parts]
    assert len(modules) > 100
    silent = [path for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_no_module_is_longer_than_a_reader_likes() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES.rglob("*.py")}
    long = {str(path.relative_to(SOURCES)): lines for path, lines in lengths.items() if lines > 500}
    assert long == {}, "a longer one needs its reason in docs/decisions"


def test_no_docstring_begins_with_a_question() -> None:
    for path in SOURCES.rglob("*.py"):
        if "_demo_project" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    first = str(node.value.value)
                    assert not re.match(r"\s*(What|Which|Who|Whoever|How)\b", first), (path, first)


def test_what_may_lie_in_the_state_directory_is_named() -> None:
    folders = (spool_files.FOLDER, spool_files.APART, REFUSED, FORWARD, output.FOLDER)
    files = (STORE_NAME, LEDGER, FILE_NAME)
    tour = PAGE.read_text(encoding="utf-8").partition("## The state directory")[2]
    how_to = (ROOT / "docs" / "how-to" / "where-data-lies.md").read_text(encoding="utf-8")
    for name in (*folders, *files):
        assert re.search(rf"^{re.escape(name)}", tour, re.MULTILINE), name
        assert f"| `{name}" in how_to, name


def test_importing_spanbus_loads_no_telemetry() -> None:
    code = "import sys, spanbus; print([name for name in ('opentelemetry.sdk', 'grpc', 'requests', 'typer', 'rich', 'urllib3') if name in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_instrumenting_loads_neither_grpc_nor_requests_nor_typer(tmp_path: Path) -> None:
    code = (
        "import sys, spanbus; bus = spanbus.WorkflowEventBus(); h = spanbus.instrument(bus); h.feed({'type': 'a.started'}); h.feed({'type': 'a.completed'})\n"
        "print([name for name in ('grpc', 'requests', 'typer', 'rich') if name in sys.modules])"
    )
    import os

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SPANBUS_STATE_DIR": str(tmp_path)},
    )
    assert done.stdout == "[]\n"


def test_no_machine_path_and_no_registry_address_is_written_anywhere() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        return
    names = listed.stdout.split("\n")
    assert len(names) > 300
    for name in names:
        path = ROOT / name
        if (
            not path.is_file()
            or path.suffix in (".png", ".gz")
            or name == "tests/architecture/test_the_house.py"
        ):
            continue
        text = path.read_text(errors="replace")
        assert str(ROOT) not in text, name
        assert not re.search(r"--(extra-)?index-url|pythonhosted\.org|//pypi\.org/simple", text), (
            name
        )
