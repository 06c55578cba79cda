"""A copy of the reference engine: its bus, and an engine whose bridge, actions and hook orchestrator all publish on it.

Written from recordings of the original: ``publish`` awaits all handlers, each in its own task; an event's type is in
``metadata.event_type``; its time is naive local time; its id is unique; the name of a definition is the workflow id.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass
class Metadata:
    event_type: str
    event_id: str
    source: str
    timestamp: datetime
    correlation_id: str | None = None
    headers: dict[str, object] = field(default_factory=dict[str, object])


@dataclass
class Event:
    metadata: Metadata
    payload: dict[str, object]


@dataclass
class _Subscription:
    event_type: str | None
    handler: Callable[[Event], object]
    slots: asyncio.Semaphore


class ReferenceBus:
    """``subscribe(type | None, handler, ...) -> id``, ``unsubscribe(id)``, ``await publish(type, payload)``."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, _Subscription] = {}
        self.results: list[bool] = []

    def subscribe(
        self,
        event_type: str | None,
        handler: Callable[[Event], object],
        *,
        predicate: object = None,
        max_concurrent: int | None = None,
        description: str | None = None,
        max_retries: int = 0,
        retry_backoff: float = 0.5,
    ) -> str:
        del predicate, description, max_retries, retry_backoff
        identity = str(uuid.uuid4())
        slots = asyncio.Semaphore(max_concurrent or 1)
        self._subscriptions[identity] = _Subscription(event_type, handler, slots)
        return identity

    def unsubscribe(self, subscription_id: str) -> bool:
        return self._subscriptions.pop(subscription_id, None) is not None

    async def publish(
        self,
        event_type: str,
        payload: dict[str, object] | None = None,
        *,
        source: str = "crackerjack.workflow",
        **metadata: object,
    ) -> list[bool]:
        del metadata
        event = Event(
            Metadata(event_type, str(uuid.uuid4()), source, datetime.now()),  # noqa: DTZ005 - as that bus does
            dict(payload or {}),
        )
        wanted = [
            each for each in self._subscriptions.values() if each.event_type in (None, event_type)
        ]
        done = await asyncio.gather(
            *(asyncio.create_task(self._handled(each, event)) for each in wanted)
        )
        self.results += done
        return done

    async def _handled(self, subscription: _Subscription, event: Event) -> bool:
        async with subscription.slots:
            try:
                result = subscription.handler(event)
                if inspect.iscoroutinefunction(subscription.handler):
                    result = await result  # type: ignore[misc]
            except Exception:
                return False
            return result is not None


class StepFailed(Exception):
    """A step failed for good."""


@dataclass
class Step:
    """A step of a definition: its action returns True, False or ``"skipped"``, or raises."""

    step_id: str
    name: str
    kind: str = "quality"
    action: Callable[[], Awaitable[object]] | None = None
    strategy: str | None = None
    tries: int = 1
    timeout_s: float = 60.0
    hooks: Sequence[tuple[str, str]] = ()
    """Names and statuses of the hooks that the orchestrator runs in this step."""


class ReferenceEngine:
    """Runs groups of steps one after another, and the steps of a group concurrently."""

    def __init__(self, bus: ReferenceBus) -> None:
        self._bus = bus

    async def run(self, workflow_id: str, groups: Sequence[Sequence[Step]]) -> bool:
        say = self._bus.publish
        await say(
            "workflow.started", {"workflow_id": workflow_id, "context": {"options": object()}}
        )
        try:
            for group in groups:
                done = await asyncio.gather(
                    *(asyncio.create_task(self._step(step)) for step in group),
                    return_exceptions=True,
                )
                for result in done:
                    if isinstance(result, BaseException):
                        raise result
        except StepFailed as error:
            await say(
                "workflow.failed",
                {"workflow_id": workflow_id, "error": f"Workflow failed: {error}"},
            )
            return False
        await say("workflow.completed", {"workflow_id": workflow_id, "result": object()})
        return True

    async def _step(self, step: Step) -> None:
        """Publish as the engine bridge: names and results are known, the duration is 0.0 on failure."""
        say = self._bus.publish
        began = time.perf_counter()
        told: dict[str, object] = {"step_id": step.step_id, "step_name": step.name}
        await say(f"workflow.{step.kind}.started", {**told, "context": {"options": object()}})
        error = ""
        for _ in range(step.tries):
            try:
                result = await asyncio.wait_for(self._action(step), step.timeout_s)
            except TimeoutError:
                error = f"Step timed out after {step.timeout_s} seconds"
                break
            except Exception as raised:
                error = f"{raised}"
                continue
            if result is not False:
                skipped = {"skipped": True} if result == "skipped" else {}
                await say(
                    f"workflow.{step.kind}.completed",
                    {
                        **told,
                        "result": {"phase": step.step_id, "success": True, **skipped},
                        "duration": time.perf_counter() - began,
                        "phase": step.name,
                        "success": True,
                    },
                )
                return
            error = f"{step.name} execution failed"
            await asyncio.sleep(0)
        await say(
            "workflow.failed",
            {**told, "error": error, "duration": 0.0, "phase": step.name, "success": False},
        )
        raise StepFailed(error)

    async def _action(self, step: Step) -> object:
        """Publish as an action of the engine: the step is named, an error only if it was raised."""
        if step.kind == "config":
            return True
        say, began = self._bus.publish, time.perf_counter()
        if step.strategy is not None:
            told: dict[str, object] = {"step_id": step.step_id, "strategy": step.strategy}
            words = ("hooks.strategy.started", "hooks.strategy.completed", "hooks.strategy.failed")
        else:
            told = {"step_id": step.step_id, "phase": step.step_id}
            words = (
                f"workflow.{step.kind}.started",
                f"workflow.{step.kind}.completed",
                "workflow.failed",
            )
        await say(words[0], {**told, "timestamp": time.time()})
        try:
            await self._orchestrate(step)
            result = await step.action() if step.action is not None else True
        except Exception as error:
            await say(words[2], {**told, "error": str(error), **self._took(began)})
            raise
        if result is False:
            await say(words[2], {**told, **self._took(began)})
        else:
            await say(words[1], {**told, "success": True, **self._took(began)})
        return result

    async def _orchestrate(self, step: Step) -> None:
        """Publish as the hook orchestrator, which knows neither step nor run."""
        if not step.hooks:
            return
        say = self._bus.publish
        told: dict[str, object] = {"strategy": step.strategy, "execution_mode": "acb"}
        await say("hooks.strategy.started", {**told, "hook_count": len(step.hooks)})

        async def hook(name: str, status: str) -> None:
            of: dict[str, object] = {"hook": name, "stage": step.strategy}
            await say("hooks.execution.started", {**of, "security_level": "medium"})
            await asyncio.sleep(0)
            await say(
                "hooks.execution.completed",
                {**of, "status": status, "duration": 0.002, "cached": False},
            )

        await asyncio.gather(*(asyncio.create_task(hook(*each)) for each in step.hooks))
        statuses = [status for _, status in step.hooks]
        counts = {status: statuses.count(status) for status in set(statuses)}
        await say(
            "hooks.strategy.completed",
            {**told, "summary": {"counts": counts, "total": len(statuses)}},
        )

    @staticmethod
    def _took(began: float) -> dict[str, Any]:
        return {"timestamp": time.time(), "duration": time.perf_counter() - began}
