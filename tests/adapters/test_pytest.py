"""pytest: what is recorded of a session, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from picture import picture
from spans import by_name

from spanbus.testing import Receiver

TESTS = """
import pytest

@pytest.fixture
def broken():
    yield
    raise RuntimeError("tear-down")

def test_good(): pass
def test_bad(): assert 1 == 2
def test_tear_down(broken): pass
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert False
@pytest.mark.timeout(0.2, func_only=True)
def test_slow():
    import time
    time.sleep(30)
"""


@pytest.fixture
def by_each_delivery(delivery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions of these tests are programs of their own, which inherit this."""
    monkeypatch.setenv("SPANBUS_DELIVERY", delivery)


def ran(folder: Path, collector: Receiver, tests: str, *arguments: str, **env: str) -> list[str]:
    """A session with the plugin, and what the collector has of it."""
    (folder / "test_it.py").write_text(tests)
    plain = {
        key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "PYTEST"))
    }
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "spanbus",
            "-p",
            "no:cacheprovider",
            *arguments,
        ],
        env={
            **plain,
            **collector.env,
            "SPANBUS_STATE_DIR": str(folder / "state"),
            "SPANBUS_EXIT_TIMEOUT_S": "5",
            **env,
        },
        cwd=folder,
        check=False,
        timeout=60,
        capture_output=True,
    )
    collector.wait_until(
        lambda one: any(span.name.startswith("RUN pytest") for span in one.spans())
    )
    return picture(collector.spans())


def stages(indent: str, **results: str) -> list[str]:
    return [
        f"{indent}hook {name} {results.get(name, 'success')}"
        for name in ("call", "setup", "teardown")
    ]


@pytest.mark.usefixtures("by_each_delivery")
def test_how_tests_end(tmp_path: Path, collector: Receiver) -> None:
    lines = ran(tmp_path, collector, TESTS)
    tests = [line for line in lines if line.startswith("  test_it")]
    assert lines[0] == "RUN pytest failure spanbus.adapters.pytest.TestsFailed"
    assert tests == [
        "  test_it.py::test_bad failure AssertionError",
        "  test_it.py::test_expected skip",
        "  test_it.py::test_good success",
        "  test_it.py::test_skipped skip",
        "  test_it.py::test_slow timeout timeout",
        "  test_it.py::test_tear_down failure RuntimeError",
    ]
    good = lines.index("  test_it.py::test_good success")
    assert lines[good + 1 : good + 4] == stages("    ")


@pytest.mark.usefixtures("by_each_delivery")
def test_a_test_that_is_run_again(tmp_path: Path, collector: Receiver) -> None:
    flaky = "calls = []\ndef test_flaky():\n    calls.append(1)\n    assert len(calls) == 2\n"
    lines = ran(tmp_path, collector, flaky, "--reruns", "2")
    assert [line for line in lines if "hook" not in line] == [
        "RUN pytest success",
        "  test_it.py::test_flaky success",
        "    test_it.py::test_flaky attempt 1 failure AssertionError",
        "    test_it.py::test_flaky attempt 2 success",
    ]


def test_the_caller_s_trace_is_continued(tmp_path: Path, collector: Receiver) -> None:
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    ran(tmp_path, collector, "def test_good(): pass", TRACEPARENT=parent)
    run = by_name(collector, "RUN pytest")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == ("ab" * 16, "cd" * 8)


@pytest.mark.usefixtures("by_each_delivery")
def test_workers_of_xdist_are_runs_beneath_the_session(tmp_path: Path, collector: Receiver) -> None:
    tests = "\n".join(f"def test_{number}(): pass" for number in range(4))
    lines = ran(tmp_path, collector, tests, "-n", "2")
    assert lines[0] == "RUN pytest success"
    assert [line for line in lines if line.startswith("  RUN")] == [
        "  RUN gw0 success",
        "  RUN gw1 success",
    ]
    assert sorted(line.strip() for line in lines if "::" in line) == [
        f"test_it.py::test_{number} success" for number in range(4)
    ]


def test_a_worker_that_is_killed(tmp_path: Path, collector: Receiver) -> None:
    dies = "import os\ndef test_good(): pass\ndef test_dies(): os._exit(1)\n"
    ran(tmp_path, collector, dies, "-n", "1")
    subprocess.run(
        [sys.executable, "-m", "spanbus", "flush"],
        env={**os.environ, **collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "state")},
        check=True,
        timeout=60,
        capture_output=True,
    )
    lines = picture(collector.spans())
    assert lines[0] == "RUN pytest failure spanbus.adapters.pytest.TestsFailed"
    assert "  RUN gw0 error killed" in lines
    assert [line for line in lines if "::" in line] == [
        "    test_it.py::test_dies error killed",
        "    test_it.py::test_good success",
    ]


def test_spans_made_inside_a_test_are_beneath_it(tmp_path: Path, collector: Receiver) -> None:
    looks = """
from opentelemetry import trace

def test_looks(record_property):
    assert trace.get_current_span().get_span_context().is_valid
"""
    lines = ran(tmp_path, collector, looks)
    assert "  test_it.py::test_looks success" in lines


def test_nothing_is_recorded_unless_it_is_asked_for(tmp_path: Path, collector: Receiver) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass")
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        env={**os.environ, **collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "state")},
        cwd=tmp_path,
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert (collector.requests, (tmp_path / "state").exists()) == ([], False)


def test_no_plugin_is_loaded_by_itself() -> None:
    from importlib.metadata import entry_points

    assert not [point for point in entry_points(group="pytest11") if "spanbus" in point.value]


pytestmark = pytest.mark.filterwarnings("default")
