"""The actions of the engine on a third-party bus."""

from __future__ import annotations

import sys

import anyio
import anyio.lowlevel
import pytest

import spanbus
from spanbus._workflow.events import WorkflowEvent

pytestmark = pytest.mark.anyio


class AwaitingBus:
    """A bus whose ``publish`` yields to the event loop, as buses do that await their handlers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, object]]] = []

    async def publish(
        self,
        event_type: str,
        payload: dict[str, object] | None = None,
        *,
        source: str = "",
        **metadata: object,
    ) -> None:
        await anyio.lowlevel.checkpoint()
        self.seen.append((event_type, dict(payload or {})))


async def test_actions_publish_on_any_bus_with_an_async_publish() -> None:
    bus = AwaitingBus()
    assert await spanbus.run_fast_hooks(
        None, "s1", bus, hooks=[{"name": "ok", "run": [sys.executable, "-c", ""]}]
    ) == {"phase": "fast_hooks", "success": True}
    assert [kind for kind, _ in bus.seen] == [
        WorkflowEvent.HOOK_STRATEGY_STARTED,
        WorkflowEvent.HOOK_EXECUTION_STARTED,
        WorkflowEvent.HOOK_EXECUTION_COMPLETED,
        WorkflowEvent.HOOK_STRATEGY_COMPLETED,
    ]
    assert set(bus.seen[-1][1]) == {"step_id", "strategy", "success", "duration", "timestamp"}


async def test_the_end_of_a_cancelled_action_is_published() -> None:
    bus = AwaitingBus()
    with anyio.move_on_after(0.3):
        await spanbus.run_test_workflow(
            None, "s1", bus, run=[sys.executable, "-c", "import time; time.sleep(60)"]
        )
    assert [kind for kind, _ in bus.seen][-2:] == [
        WorkflowEvent.HOOK_EXECUTION_FAILED,
        WorkflowEvent.WORKFLOW_FAILED,
    ]
