"""Command lines are parsed with a generated table like typer does; invalid lines and help are left to typer."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Cli

from spanbus._cli.app import COMMANDS, app
from spanbus._cli.line import call_of

READ = """
show
show last~1
show --events
show -e run-1 --file ./spanbus.toml
show run-1 --json -a
show --otlp --file=a=b.toml -- -x
show --file= -
runs
runs -w checks --result failed -r success --since 2h -n 3
runs --limit=7 --all --json
runs -n7 -wchecks
runs -n 3 -n 4 --workflow a --workflow=b
logs last tests pytest --failed -f
logs -- --failed
diff a b
diff a --fail-on none b c --threshold=0.5 --at-least 1.5
diff --at-least 1e-3 a b --json
report -o - --markdown
report last --output=x.html
status --json
flush --wait 3 --refused
flush -w0
doctor --timeout 1 --jaeger http://127.0.0.1:1
metrics --json
replay events.jsonl -d crackerjack --dry-run
replay - --file a
view --no-browser last
mcp
demo
""".strip().splitlines()

LEFT = """
show --help
show -h last
show a b
show --jsn
show --json=1
show -ea
show --file
runs -n 0
runs -n x
runs --limit ''
diff
diff --at-least -1 a b
diff --at-least two a b
diff --at-least -- a b
flush --wait -0.1
doctor --timeout 99999
replay
metrics x
run
run checks -- --json
exec -- true
up --port 0
observe nats://127.0.0.1 --once --group x
stack up
nats status
dialect suggest x
nothing
--version
""".strip().splitlines()


def by_typer(words: list[str]) -> dict[str, object]:
    """Return the parameters with which typer would call the command."""
    group: Any = typer.main.get_command(app)
    root = group.make_context("spanbus", ["demo"], resilient_parsing=True)
    command = group.get_command(root, words[0])
    return dict(command.make_context(words[0], words[1:], parent=root).params)


def comparable(values: Mapping[str, object]) -> dict[str, object]:
    """Normalize parameters: typer converts paths in the call itself, and has empty values for missing options."""
    paths = ("file", "out", "stream")
    return {
        name: Path(str(value))
        if name in paths and value is not None
        else list(value) or None
        if isinstance(value, tuple | list)
        else value
        for name, value in values.items()
    }


@pytest.mark.parametrize("line", READ)
def test_a_valid_command_line_is_parsed_like_typer_does(line: str) -> None:
    words = shlex.split(line)
    call = call_of(words)
    assert isinstance(call, partial)
    given = inspect.signature(call.func).bind(**call.keywords)
    given.apply_defaults()
    assert comparable(given.arguments) == comparable(by_typer(words))
    assert call.func.__module__ == f"spanbus._cli.{words[0]}"


@pytest.mark.parametrize("line", LEFT)
def test_invalid_lines_and_help_are_left_to_typer(line: str) -> None:
    assert call_of(shlex.split(line)) is None


def test_every_plain_command_is_parsed_without_typer(cli: Cli) -> None:
    del cli
    own = {"run", "exec", "up", "observe", "stack", "nats", "dialect"}
    minimal = {"diff": ["a", "b"], "replay": ["x"]}
    read = {name for name in COMMANDS if call_of([name, *minimal.get(name, [])]) is not None}
    assert read == set(COMMANDS) - own


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("show --json --otlp", 2, "spanbus: --json and --otlp exclude each other\n"),
        ("runs -n 0", 2, "Invalid value for '--limit' / '-n'"),
        ("show --jsn", 2, "No such option: --jsn"),
        ("shwo", 2, "did you mean"),
    ],
)
def test_usage_errors_are_those_of_typer(cli: Cli, line: str, code: int, said: str) -> None:
    done = cli(*line.split())
    assert (done.code, done.out) == (code, "")
    assert said in done.err


HEAVY = {
    "typer",
    "rich.console",
    "rich.text",
    "dataclasses",
    "inspect",
    "asyncio",
    "uuid",
    "shutil",
}


def test_show_imports_neither_typer_nor_most_of_rich(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # what measures is loaded too
    assert cli("exec", "--", "true").code == 0
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "sys.argv = ['spanbus', *sys.argv[1:]]; from spanbus._cli import main; main()"
    )
    for line in ("show", "show --json", "runs", "logs --failed"):
        done = cli.run([sys.executable, "-c", program, *line.split()])
        assert done.returncode == (1 if line == "logs --failed" else 0)
        loaded = set(done.stderr.split())
        assert "spanbus._store.runs" in loaded
        assert not loaded & HEAVY, line


def test_the_generated_table_is_up_to_date(request: pytest.FixtureRequest) -> None:
    tool = request.config.rootpath / "tools" / "start.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
