"""luigi, doit and Invoke: what is recorded of the tasks that they run, by the one line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from picture import picture

import spanbus
from spanbus.errors import InputError
from spanbus.testing import Receiver

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of luigi, of what it loads by itself
    import luigi
    from luigi.mock import MockFileSystem

Drawn = Callable[[], list[str]]
Program = Callable[..., tuple["subprocess.CompletedProcess[str]", list[str]]]
DOIT = "sys.exit(DoitMain().run(sys.argv[1:]))"
HERE: list[Path] = []


@pytest.fixture
def program(tmp_path: Path, collector: Receiver, delivery: str) -> Program:
    """Runs the command of a library with arguments, in a process and a folder of its own, and draws what came of it."""
    env = {
        **os.environ,
        **collector.env,
        "SPANBUS_STATE_DIR": str(tmp_path / "state"),
        "SPANBUS_DELIVERY": delivery,
        "SPANBUS_EXIT_TIMEOUT_S": "20",
    }

    def run(
        imports: str, call: str, arguments: str
    ) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", f"{imports}; {call}", *arguments.split()],
            cwd=tmp_path,
            env=env,
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        return done, picture(collector.spans())

    return run


@pytest.fixture
def watched(runtime: spanbus.Runtime, tmp_path: Path) -> Generator[spanbus.Handle]:
    for name in ("luigi", "luigi-interface"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    HERE[:] = [tmp_path / "targets"]
    HERE[0].mkdir()
    settings = luigi.configuration.get_config()
    for section, key, value in (
        ("scheduler", "retry_delay", "900"),
        ("scheduler", "retry_count", "2"),
        ("worker", "wait_interval", "0.05"),
        ("worker", "wait_jitter", "0"),
        ("worker", "keep_alive", "false"),
    ):
        settings.set(section, key, value)
    handle = runtime.instrument(luigi)
    yield handle
    assert (handle.state().errors, handle.state().last_error) == (0, None)
    handle.detach()


def build(*tasks: luigi.Task, **options: Any) -> bool:
    return bool(luigi.build(list(tasks), local_scheduler=True, log_level="CRITICAL", **options))


class Target(luigi.Task):
    day = luigi.Parameter(default="1")

    def output(self) -> Any:
        return luigi.LocalTarget(str(HERE[0] / self.task_id))

    def run(self) -> Any:
        with self.output().open("w") as file:
            file.write(str(trace.get_current_span().get_span_context().span_id))


class Fetch(Target): ...


class Build(Target):
    def requires(self) -> Any:
        return [Fetch(day="1"), Fetch(day="2")]


class Broken(Target):
    def run(self) -> None:
        raise ValueError("no: it")


class All(Target):
    def requires(self) -> Any:
        return [Build(), Broken()]


class Asks(Target):
    def run(self) -> Any:
        yield Fetch(day="9")
        super().run()


class Killed(Target):
    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(Target):
    worker_timeout = 1

    def run(self) -> None:
        time.sleep(600)


class Flaky(Target):
    def run(self) -> None:
        tried = HERE[0] / "tried"
        if not tried.exists():
            tried.touch()
            raise ConnectionError("refused")
        super().run()


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_of_luigi_are_phases_of_each_run(drawn: Drawn, workers: int) -> None:
    assert not build(All(), workers=workers)
    assert build(Asks(), workers=workers)
    inside = {one.read_text() for one in HERE[0].iterdir()}
    assert len(inside - {"0"}) == 5, "each is current inside, in the processes that are forked too"
    assert drawn() == [
        "RUN All failure ValueError",
        "  Broken failure ValueError",
        "  Build success",
        "  Fetch success",
        "  Fetch success",
        "RUN Asks success",
        "  Asks success",
        "  Fetch success",
    ]


@pytest.mark.usefixtures("watched")
def test_tasks_of_luigi_that_are_killed_or_late(drawn: Drawn) -> None:
    assert not build(Killed(), Fetch(), workers=2)
    assert not build(Slow())
    assert drawn() == [
        "RUN Killed failure killed",
        "  Fetch success",
        "  Killed failure killed",
        "RUN Slow failure timeout",
        "  Slow timeout timeout",
    ]


@pytest.mark.usefixtures("watched")
def test_tasks_of_luigi_that_are_tried_again(drawn: Drawn) -> None:
    luigi.configuration.get_config().set("scheduler", "retry_delay", "0.05")
    luigi.configuration.get_config().set("worker", "keep_alive", "true")
    build(Flaky())
    assert drawn()[1:] == [
        "  Flaky success",
        "    Flaky attempt 1 failure ConnectionError",
        "    Flaky attempt 2 success",
    ]


def test_it_leaves_luigi(watched: spanbus.Handle, drawn: Drawn) -> None:
    watched.detach()
    assert build(Fetch())
    assert drawn() == []


def test_a_task_of_luigi_is_refused(runtime: spanbus.Runtime) -> None:
    with pytest.raises(InputError, match=r"spanbus\.instrument\(luigi\)"):
        runtime.instrument(luigi.Task)


# --- Invoke -----------------------------------------------------------------------------------------------------------

TASKS = """
import invoke
from invoke import Exit, task
from opentelemetry import trace

import spanbus

spanbus.instrument(invoke)

@task
def fetch(c):
    c.run("true")

@task
def lint(c):
    print(trace.get_current_span().get_span_context().is_valid)

@task(pre=[fetch], post=[lint])
def build(c, name="x"):
    c.run(f"echo {name}")

@task
def both(c):
    build(c, name="y")
    lint(c)

@task
def broken(c):
    c.run("exit 3")

@task
def leaves(c):
    raise Exit(code=0)

@task
def gives_up(c):
    raise Exit("no", code=2)
"""
EXIT = "invoke.exceptions.Exit"


@pytest.mark.parametrize(
    ("asked", "code", "said", "lines"),
    [
        ("build", 0, "x True", ["success", "build success", "fetch success", "lint success"]),
        ("both", 0, "y True", ["success", "both success", "build success", "lint success"]),
        (
            "fetch broken lint",
            3,
            "",
            [
                "failure invoke.exceptions.UnexpectedExit",
                "broken failure invoke.exceptions.UnexpectedExit",
                "fetch success",
            ],
        ),
        ("leaves", 0, "", ["success", "leaves success"]),
        ("gives-up", 2, "", [f"failure {EXIT}", f"gives-up failure {EXIT}"]),
    ],
)
def test_tasks_of_invoke_are_phases_of_each_call(
    tmp_path: Path, program: Program, asked: str, code: int, said: str, lines: list[str]
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    done, drawn = program("from invoke.main import program", "program.run()", asked)
    assert (done.returncode, done.stdout.split()) == (code, said.split())
    first, *phases = lines
    expected = [f"RUN tasks {first}", *(f"  {line.replace('-', '_', 1)}" for line in phases)]
    assert drawn == expected


# --- doit -------------------------------------------------------------------------------------------------------------

DODO = """
import doit
from opentelemetry import trace

import spanbus

spanbus.instrument(doit)
DOIT_CONFIG = {"continue": True}

def show():
    with open("seen", "w") as file:
        print(trace.get_current_span().get_span_context().is_valid, file=file)

def broken():
    raise ValueError("no: it")

def task_build():
    return {"actions": [show]}

def task_broken():
    return {"actions": [broken]}

def task_after():
    return {"actions": ["true"], "task_dep": ["broken"]}

def task_command():
    return {"actions": ["exit 3"]}

def task_once():
    return {"actions": ["true"], "uptodate": [True]}

def task_group():
    for name in ("a", "b"):
        yield {"name": name, "actions": ["true"]}
"""
GROUP = ["  group:a success", "  group:b success"]
BROKEN = "  broken failure ValueError"


@pytest.mark.parametrize(
    ("asked", "code", "lines"),
    [
        ("build group once", 0, ["RUN doit success", "  build success", *GROUP, "  once skip"]),
        ("command", 1, ["RUN doit failure TaskFailed", "  command failure TaskFailed"]),
        ("after", 2, ["RUN doit failure ValueError", "  after skip", BROKEN]),
        ("-n 2 broken group", 2, ["RUN doit failure ValueError", BROKEN, *GROUP]),
        ("-n 2 -P thread broken group", 2, ["RUN doit failure ValueError", BROKEN, *GROUP]),
    ],
)
def test_tasks_of_doit_are_phases_of_each_call(
    tmp_path: Path, program: Program, asked: str, code: int, lines: list[str]
) -> None:
    (tmp_path / "dodo.py").write_text(DODO)
    done, drawn = program("import sys; from doit.doit_cmd import DoitMain", DOIT, asked)
    assert (done.returncode, drawn) == (code, lines)
    if "build" in asked:
        assert (tmp_path / "seen").read_text() == "True\n", "it is current inside"


def test_the_example_of_the_documents(
    example: Callable[..., list[str]], drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    MockFileSystem().clear()
    expected = example("luigi", tmp_path / "nightly.py")
    assert drawn() == expected
