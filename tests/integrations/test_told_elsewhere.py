"""``SPANBUS_TELEMETRY=elsewhere``: without a server it is refused, and no spans are made in this process."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import spanbus
from spanbus._attaching.elsewhere import is_carried, mark_as_carried
from spanbus.errors import InputError
from spanbus.testing import Receiver


def publish(bus: spanbus.WorkflowEventBus) -> None:
    bus.publish_nowait("workflow.started", {"workflow": "w"}, run_id="r")
    bus.publish_nowait("workflow.phase.started", {}, run_id="r", phase="p")
    bus.publish_nowait("workflow.phase.completed", {"success": True}, run_id="r", phase="p")
    bus.publish_nowait("workflow.completed", {"workflow": "w"}, run_id="r")


def test_without_a_server_a_command_fails_and_a_service_exports_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver() as collector:
        env = {
            **collector.env,
            "SPANBUS_STATE_DIR": str(tmp_path),
            "SPANBUS_TELEMETRY": "elsewhere",
        }
        with (
            spanbus.open_runtime_sync(env=env, command_line=True) as command,
            pytest.raises(InputError, match="needs SPANBUS_NATS_URL") as refused,
        ):
            assert command.bus is None
        assert "\n" not in str(refused.value)
        with (
            caplog.at_level(logging.WARNING, "spanbus"),
            spanbus.open_runtime_sync(env=env) as service,
        ):
            publish(service.bus)
            assert service.flush()
        assert "needs SPANBUS_NATS_URL" in caplog.text
        assert sorted(span.name for span in collector.spans()) == ["RUN w", "p"]


def test_a_bus_observed_elsewhere_makes_no_telemetry_here(tmp_path: Path, delivery: str) -> None:
    with Receiver() as collector:
        env = {
            **collector.env,
            "SPANBUS_STATE_DIR": str(tmp_path),
            "SPANBUS_DELIVERY": delivery,
        }
        with spanbus.open_runtime_sync(env=env) as runtime:
            carried, other = spanbus.WorkflowEventBus(), spanbus.WorkflowEventBus()
            mark_as_carried(carried)
            assert is_carried(carried) and not is_carried(other)
            handle = runtime.instrument(carried)
            runtime.instrument(other)
            publish(carried)
            assert handle.state().phases_ended == 1
            assert runtime.flush() and collector.spans() == []
            publish(other)
            assert runtime.flush()
        assert sorted(span.name for span in collector.spans()) == ["RUN w", "p"]
