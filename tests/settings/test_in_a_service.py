"""A library call in somebody's service survives settings that cannot be used, and delivers by the defaults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-3"),
        ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "few"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_PROPAGATORS", "nonsense"),
        ("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "log"),
        ("SPANBUS_EVENTS", "spans"),
        ("SPANBUS_NONSENSE", "1"),
    ],
)
def test_a_value_that_cannot_be_used_is_a_warning_and_everything_is_delivered(tmp_path: Path, variable: str, value: str) -> None:
    with Receiver() as receiver:
        env = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "SPANBUS_"))},
            "PYTHONPATH": os.pathsep.join(sys.path), "SPANBUS_STATE_DIR": str(tmp_path / "state"), "SPANBUS_EVENTS": "both",
            **receiver.env, variable: value,
        }
        done = subprocess.run([sys.executable, "-c", SERVICE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(span.name for span in receiver.spans()) == ["RUN w", "p"]
