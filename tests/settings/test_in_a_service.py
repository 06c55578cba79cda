"""Invalid settings in a service: a library call warns, uses the defaults and delivers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prepared
import pytest

from spanbus.testing import Receiver

SERVICE = """
import anyio
import spanbus

async def main():
    async with spanbus.WorkflowEventBus() as bus:
        handle = spanbus.instrument(bus)
        await bus.publish("workflow.started", {"workflow": "w"}, run_id="r")
        await bus.publish("workflow.phase.started", {}, run_id="r", phase="p")
        await bus.publish("workflow.phase.completed", {}, run_id="r", phase="p")
        await bus.publish("workflow.completed", {}, run_id="r")
        print(handle.state().errors, spanbus.flush())

anyio.run(main)
"""


def assert_all_is_well(done: subprocess.CompletedProcess[str], receiver: Receiver) -> None:
    """Assert that the service ran without a traceback, and that everything was delivered."""
    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(span.name for span in receiver.spans()) == ["RUN w", "p"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "deltas"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
        ("OTEL_TRACES_SAMPLER", "most"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "zz"),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-3"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "few"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_PROPAGATORS", "nonsense"),
        ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "log"),
        ("SPANBUS_EVENTS", "spans"),
        ("SPANBUS_NONSENSE", "1"),
    ],
)
def test_an_invalid_value_is_one_warning_and_everything_is_delivered(
    tmp_path: Path, variable: str, value: str
) -> None:
    assert_delivered_all_the_same(tmp_path, "spool", variable, value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often"),
    ],
)
def test_an_invalid_value_for_the_sdk_is_one_warning_and_everything_is_delivered(
    tmp_path: Path, variable: str, value: str
) -> None:
    assert_delivered_all_the_same(tmp_path, "sdk", variable, value)


def assert_delivered_all_the_same(tmp_path: Path, delivery: str, variable: str, value: str) -> None:
    with Receiver() as receiver:
        env = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("OTEL_", "SPANBUS_"))
            },
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SPANBUS_STATE_DIR": str(tmp_path / "state"),
            "SPANBUS_EVENTS": "both",
            "SPANBUS_DELIVERY": delivery,
            "SPANBUS_EXIT_TIMEOUT_S": "20",
            **receiver.env,
            variable: value,
        }
        done = prepared.run([], folder=tmp_path, env=env, stdin=None, timeout_s=60, code=SERVICE)
        assert_all_is_well(done, receiver)
        assert (done.stderr.startswith(variable), done.stderr.count("\n")) == (True, 1), done.stderr


NO_ENTRY = """
import pwd
def none(*_): raise KeyError("no entry")
pwd.getpwuid = pwd.getpwnam = none
"""


@pytest.mark.parametrize(
    ("state_dir", "folder_is_gone"),
    [(None, False), ("~/x", False), ("state", True), (None, True)],
    ids=["no home", "a home that nobody has", "relative to nothing", "no home and no folder"],
)
def test_without_a_home_folder_the_service_runs_with_one_warning(
    tmp_path: Path, state_dir: str | None, folder_is_gone: bool
) -> None:
    """In a container, a user may have no entry in the passwd file and no HOME."""
    folder = tmp_path / "folder"
    folder.mkdir()
    leave = 'cd folder && rmdir ../folder && exec "$@"' if folder_is_gone else 'exec "$@"'
    with Receiver() as receiver:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **receiver.env,
            **({"SPANBUS_STATE_DIR": state_dir} if state_dir else {}),
        }
        done = subprocess.run(
            ["sh", "-c", leave, "sh", sys.executable, "-c", NO_ENTRY + SERVICE],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert_all_is_well(done, receiver)
        assert "set SPANBUS_STATE_DIR to a folder" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "~").exists()
