"""A bus that is garbage-collected while spans of its events are open."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

from spanbus._runtime import Runtime
from spanbus._settings import load_settings
from spanbus.testing import Receiver


class Bus:
    def __init__(self) -> None:
        self.handlers: list[Callable[[object], object]] = []

    def subscribe(self, event_type: str | None, handler: Callable[[object], object]) -> None:
        self.handlers.append(handler)

    def publish(self, event_type: str, **payload: object) -> None:
        for handler in self.handlers:
            handler({"type": event_type, "payload": payload})


def leave_work_open(runtime: Runtime) -> None:
    bus = Bus()
    runtime.instrument(bus)
    bus.publish("workflow.started", workflow_id="nightly")
    bus.publish("workflow.quality.started", step_id="lint")


def failed_spans(receiver: Receiver) -> dict[str, str]:
    return {
        span.name: attribute.value.string_value
        for span in receiver.spans()
        for attribute in span.attributes
        if attribute.key == "error.type"
    }


def test_open_spans_of_a_collected_bus_are_abandoned_while_the_program_runs(
    tmp_path: Path, delivery: str
) -> None:
    with Receiver() as receiver:
        env = {
            **receiver.env,
            "SPANBUS_STATE_DIR": str(tmp_path),
            "SPANBUS_DELIVERY": delivery,
        }
        with Runtime(load_settings(env=env), env=env) as runtime:
            leave_work_open(runtime)
            gc.collect()
            assert receiver.wait_until(lambda records: len(records.spans()) == 2)
            assert failed_spans(receiver) == {"RUN nightly": "abandoned", "lint": "abandoned"}


def test_open_spans_of_a_collected_bus_are_abandoned_at_exit(tmp_path: Path, delivery: str) -> None:
    with Receiver() as receiver:
        env = {
            **receiver.env,
            "SPANBUS_STATE_DIR": str(tmp_path),
            "SPANBUS_DELIVERY": delivery,
        }
        with Runtime(load_settings(env=env), env=env) as runtime:
            leave_work_open(runtime)
            gc.collect()
        assert receiver.wait_until(lambda records: len(records.spans()) == 2)
        assert failed_spans(receiver) == {"RUN nightly": "abandoned", "lint": "abandoned"}


def test_a_handle_fed_by_hand_works_after_its_bus_is_collected(
    tmp_path: Path, delivery: str
) -> None:
    with Receiver() as receiver:
        env = {
            **receiver.env,
            "SPANBUS_STATE_DIR": str(tmp_path),
            "SPANBUS_DELIVERY": delivery,
        }
        with Runtime(load_settings(env=env), env=env) as runtime:
            handle = runtime.instrument(Bus())
            gc.collect()
            handle.feed(
                {"type": "workflow.started", "payload": {"workflow_id": "w", "run_id": "r"}}
            )
            runtime.tick_correlators()
            handle.feed(
                {"type": "workflow.completed", "payload": {"workflow_id": "w", "run_id": "r"}}
            )
            assert handle.state().abandoned == 0
            assert runtime.flush(30.0)
        assert failed_spans(receiver) == {}
