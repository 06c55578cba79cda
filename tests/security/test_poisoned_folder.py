"""No command imports a module from the working directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli

from spanbus._cli import interpreter
from spanbus._cli.app import COMMANDS

MODULES = (
    "spanbus json re typing logging socket ssl uuid email http random tempfile subprocess webbrowser"
    " sitecustomize usercustomize typer rich anyio uvicorn starlette opentelemetry google urllib3 platformdirs"
    " click tomllib sqlite3 zlib encodings site codecs io os stat nats celery mcp h11 websockets readline trio crackerjack"
).split()
CALLS = {
    "run": ["run", "one"],
    "exec": ["exec", "--", "true"],
    "show": ["show", "last"],
    "replay": ["replay", "events.jsonl", "--dialect", "mine"],
    "logs": ["logs", "last"],
    "dialect": ["dialect", "check", "mine.toml", "events.jsonl"],
    "flush": ["flush", "--wait", "0.2"],
    "nats": ["nats", "status", "nats://127.0.0.1:1"],
    "observe": ["observe", "nats://127.0.0.1:1", "--once"],
    "diff": ["diff", "last", "last"],
    "report": ["report", "last"],
    "view": ["view", "--no-browser"],
    "up": ["up", "--port", "0", "--help"],
    "doctor": ["doctor", "--timeout", "0.2"],
    "stack": ["stack", "status"],
    "demo": ["demo", "--help"],
    "mcp": ["mcp", "--help"],
}


@pytest.fixture
def poisoned(cloned: Cli) -> Cli:
    """A folder with a file for each module that an interpreter may look for; each records its name when imported."""
    poison = f"open({str(cloned.folder / 'imported')!r}, 'a').write('a package ')\n"
    for name in MODULES:
        leaves = f"open({str(cloned.folder / 'imported')!r}, 'a').write({name!r})\n"
        (cloned.folder / f"{name}.py").write_text(leaves)
    for name in ("spanbus", "rich", "opentelemetry", "google"):
        (cloned.folder / name).mkdir()
        (cloned.folder / name / "__init__.py").write_text(poison)
        (cloned.folder / name / "__main__.py").write_text(poison)
    (cloned.folder / "evil.pth").write_text(f"import {poison}")
    (cloned.folder / "pyvenv.cfg").write_text("home = .\n")
    (cloned.folder / "evil.egg-info").mkdir()
    (cloned.folder / "evil.egg-info" / "PKG-INFO").write_text("Name: evil\nVersion: 1\n")
    (cloned.folder / "evil.egg-info" / "entry_points.txt").write_text(
        "[spanbus.adapters]\nevil = json:x\n[opentelemetry_context]\ncontextvars_context = json:x\n"
    )
    (cloned.folder / "mine.toml").write_text('extends = "generic"\n')
    (cloned.folder / "spanbus.toml").write_text(
        'dialects = { mine = "mine.toml" }\n[workflows.one]\nphases = [{ name = "p", run = "true" }]\n'
    )
    (cloned.folder / "events.jsonl").write_text("")
    return cloned


def imported_by(poisoned: Cli, command: str, python_path: str = "") -> str:
    """Return the names of the poisoned modules that a command or its children imported."""
    argv = poisoned.argv(*CALLS.get(command, [command]))
    source = str(Path(interpreter.__file__).parents[2])
    env = {**poisoned.environment(), "PYTHONPATH": source}
    if python_path:  # the command itself is given the source alone; its children inherit more
        inherited = f"{source}{os.pathsep}{python_path}"
        argv[3] = f"import os; os.environ['PYTHONPATH'] = {inherited!r}; {argv[3]}"
    done = subprocess.run(
        argv,
        cwd=poisoned.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    for process in re.findall(r"`kill (\d+)`", done.stderr):
        os.kill(int(process), signal.SIGTERM)
    imported = poisoned.folder / "imported"
    return imported.read_text() if imported.exists() else ""


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_a_file_of_the_working_directory(poisoned: Cli, command: str) -> None:
    assert not imported_by(poisoned, command)


@pytest.mark.parametrize("python_path", [os.pathsep, ".", f"{os.pathsep}.{os.pathsep}"])
def test_a_relative_pythonpath_is_not_passed_on(poisoned: Cli, python_path: str) -> None:
    assert not imported_by(poisoned, "view", python_path)


def test_the_backend_started_by_view_serves(poisoned: Cli) -> None:
    done = poisoned("view", "--no-browser")
    process = re.search(r"`kill (\d+)`", done.err)
    assert process is not None, done.err
    os.kill(int(process[1]), signal.SIGTERM)
    assert done.out.startswith("http://127.0.0.1:")


def test_python_m_spanbus_removes_the_working_directory_from_the_path(poisoned: Cli) -> None:
    # the interpreter itself looks for these two, before any of our code
    (poisoned.folder / "spanbus.py").unlink()
    shutil.rmtree(poisoned.folder / "spanbus")
    argv = [sys.executable, "-m", "spanbus", "exec", "--", "true"]
    env = poisoned.environment()
    subprocess.run(argv, cwd=poisoned.folder, env=env, check=True, capture_output=True, timeout=60)
    assert not (poisoned.folder / "imported").exists()


def test_every_interpreter_we_start_ignores_the_working_directory() -> None:
    source = Path(interpreter.__file__).parents[1]
    starts = [
        f"{path.relative_to(source)}: {line.strip()}"
        for path in source.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"sys\.executable\s*[,\]]", line) and not re.search(r'"-[PI]"', line)
    ]
    assert not starts
