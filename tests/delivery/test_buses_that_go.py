"""A bus that is thrown away with work open on it."""

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


def test_what_was_open_on_a_bus_that_is_gone_ends_as_abandoned_while_the_program_goes_on(
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


def test_what_was_open_on_a_bus_that_is_gone_ends_as_abandoned_with_the_program(
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


def test_a_handle_that_is_fed_by_hand_goes_on_without_its_bus(
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
