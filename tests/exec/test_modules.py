"""Modules that `spanbus exec` imports: few before the command starts, and some never."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command_line import Cli

MAIN = "import sys; sys.argv = ['spanbus', *sys.argv[1:]]; from spanbus._cli import main; main()"

BEFORE_THE_START = {
    "spanbus",
    "spanbus._bounded_cache",
    "spanbus._cli",
    "spanbus._exec",
    "spanbus._exec.arguments",
    "spanbus._exec.supervise",
    "spanbus._exec.guard",
    "spanbus._exec.launch",
    "spanbus._exec.stderr",
    "spanbus._exec.trace",
    "spanbus._exec.wrapper",
    "spanbus._hash",
    "spanbus._named_tuple",
    "spanbus._patterns",
    "spanbus._telemetry",
    "spanbus._telemetry.sampling",
    "spanbus._workflow",
    "spanbus._workflow.identity",
}
NEVER = (
    "psutil",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.metrics",
    "opentelemetry.sdk.trace",
    "opentelemetry.context",
    "opentelemetry.trace",
    "anyio",
    "asyncio",
    "grpc",
    "requests",
    "rich",
    "shutil",
    "starlette",
    "typer",
    "http.client",
    "zipfile",
    "spanbus._telemetry.secret_data",
    "dataclasses",
    "decimal",
    "hashlib",
    "inspect",
    "logging",
    "shlex",
    "textwrap",
    "tokenize",
    "traceback",
    "socket",
    "uuid",
    "spanbus._reading.dialect",
    "spanbus._settings.arguments",
    "spanbus._store.query",
    "spanbus._store.runs",
    "spanbus._store.store",
    "spanbus._store.traces",
    "spanbus._workflow.definition",
)
"""Where no endpoint is set and no backend runs."""
MOST = 139
"""Modules of ours; each takes a hundredth of what Python takes to start."""


@pytest.fixture(autouse=True)
def nothing_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where coverage is measured, it would be loaded into each process too."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def loaded(cli: Cli, *command: str) -> list[str]:
    """Return the modules in the order of import."""
    done = cli.run([sys.executable, "-X", "importtime", "-c", MAIN, "exec", "--", *command])
    done.check_returncode()
    return [
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    ]


def test_no_telemetry_module_is_imported_before_the_command_starts(cli: Cli) -> None:
    """Without a second process the wrapper replaces itself by the command, which shows what it has imported by then."""
    program = (
        "import os, sys\n"
        "def fork():\n"
        "    print(*sorted(sys.modules), sep='\\n', flush=True)\n"
        "    raise OSError(11, 'no')\n"
        "os.fork = fork\n"
        f"{MAIN}"
    )
    done = cli.run([sys.executable, "-c", program, "exec", "--", "true"])
    done.check_returncode()
    names = set(done.stdout.split())
    assert {name for name in names if name.startswith("spanbus")} <= BEFORE_THE_START
    heavy = (
        "opentelemetry",
        "logging",
        "dataclasses",
        "pathlib",
        "subprocess",
        "threading",
        "json",
        "ctypes",
    )
    assert not {name for name in names if name.partition(".")[0] in heavy}


def test_exec_imports_no_server_no_client_and_no_event_loop(
    cli: Cli,
) -> None:
    loaded(cli, "true")  # makes the store
    names = loaded(cli, "true")
    assert "spanbus._store.schema" in names
    assert [
        name
        for name in names
        if name in NEVER
        or name.startswith(("opentelemetry.exporter", "spanbus._runs.tree", "tomllib"))
    ] == []
    assert len([name for name in names if name.startswith("spanbus")]) <= MOST


def test_version_and_help_import_almost_nothing(cli: Cli) -> None:
    for word in ("--version", "--help"):
        program = f"{MAIN.rpartition(';')[0]}; main(); print(len([m for m in sys.modules if 'spanbus' in m]), 'typer' in sys.modules)"
        done = cli.run([sys.executable, "-c", program, word])
        done.check_returncode()
        count, typer = done.stdout.splitlines()[-1].split()
        assert (int(count) <= 5, typer) == (True, "False")


def test_help_equals_that_of_typer(cli: Cli) -> None:
    program = (
        "import sys; sys.argv = ['spanbus', '--help']; from spanbus._cli.app import main; main()"
    )
    env = {**cli.environment(), "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    said = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    ).stdout
    ours = cli("--help", env={"COLUMNS": "80"}).out
    assert [line.rstrip() for line in ours.splitlines()] == [
        line.rstrip() for line in said.splitlines()
    ]
    assert os.linesep.join(["", "Commands:"]) in ours
