"""The pytest plugin is loaded only by sessions that ask for it by the name of the package."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from spanbus.testing import Receiver

LISTS_MODULES = """
import sys

def test_it():
    print("MODULES", *sorted(name for name in sys.modules if name.startswith("spanbus")))
"""


def ran(folder: Path, *arguments: str, program: str = LISTS_MODULES, **env: str) -> str:
    """Run a pytest session in its own process, and return its output."""
    (folder / "test_it.py").write_text(program)
    plain = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTEST"))
    }
    state = {
        "SPANBUS_STATE_DIR": str(folder / "state"),
        "SPANBUS_EXIT_TIMEOUT_S": "5",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of others take longer than the session
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**plain, **state, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("asked", "name", "delivery"),
    [
        ("-p", "spanbus", "spool"),
        ("-p", "spanbus", "sdk"),
        ("-p", "spanbus.adapters.pytest", "spool"),
        ("addopts", "spanbus", "spool"),
        ("conftest", "spanbus", "spool"),
    ],
)
def test_a_session_that_asks_for_it_is_recorded(
    tmp_path: Path, asked: str, name: str, delivery: str
) -> None:
    arguments: tuple[str, ...] = ()
    if asked == "-p":
        arguments = ("-p", name)
    elif asked == "addopts":
        (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = -p {name}\n")
    else:
        (tmp_path / "conftest.py").write_text(f'pytest_plugins = ["{name}"]\n')
    with Receiver() as collector:
        ran(tmp_path, *arguments, SPANBUS_DELIVERY=delivery, **collector.env)
        found = {span.name for span in collector.spans()}
    assert {"RUN pytest", "test_it.py::test_it"} <= found


def test_sessions_that_do_not_ask_for_the_plugin_run_without_it(tmp_path: Path) -> None:
    printed = ran(tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="").splitlines()
    assert "MODULES" in [line.strip() for line in printed]
    points = metadata.distribution("spanbus").entry_points
    assert [point for point in points if point.group == "pytest11"] == []


MAKES_NO_LOGGER = """
import logging, threading, time

before = set(logging.root.manager.loggerDict)

def test_it():
    while not any(thread.name == "spanbus-remote" for thread in threading.enumerate()):
        time.sleep(0.01)
    time.sleep(0.5)  # it is refused at once
    assert set(logging.root.manager.loggerDict) - before <= {"concurrent", "concurrent.futures"}
"""


def test_no_thread_makes_loggers_while_tests_run(tmp_path: Path) -> None:
    """pytest iterates over all loggers at each test without a lock, so a thread must not create one then."""
    program = MAKES_NO_LOGGER
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert "1 passed" in ran(tmp_path, "-p", "spanbus", program=program, **endpoint)
