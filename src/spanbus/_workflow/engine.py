"""Run the phases of a workflow, and publish their events.

Independent phases run concurrently, up to a limit. Every start event has exactly one end event, whether the phase ends by a
result, an exception, a timeout, a cancellation or ``SystemExit``.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import anyio

from spanbus._semantics import class_name, error_text
from spanbus._workflow.actions import ACTIONS, Interrupted
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.current import RunScope, current_scope, now_ns, use_bus, within
from spanbus._workflow.definition import EMPTY_ENV, Phase, Workflow
from spanbus._workflow.events import WorkflowEvent
from spanbus._workflow.execution import (
    Around,
    PhaseContext,
    PhaseExecution,
    RunOptions,
    check_options,
    new_run_id,
)
from spanbus._workflow.functions import call, parameters_taken
from spanbus._workflow.loops import cancelled_from_outside
from spanbus._workflow.results import (
    DESELECTED,
    FAILED,
    AttemptFailed,
    AttemptStopped,
    PhaseResult,
    ResultName,
    RunResult,
    failure_summary,
    tail_of,
    trace_of,
)
from spanbus._workflow.retry import RetryPolicy
from spanbus._workflow.stop import Stop
from spanbus._workflow.task_reference import resolved
from spanbus.errors import PhaseLost, PhaseRevoked, PhaseTimeout, PhaseUnsuccessful

__all__ = [
    "BasicWorkflowEngine",
    "PhaseContext",
    "PhaseExecution",
    "PhaseResult",
    "RunOptions",
    "RunResult",
    "new_run_id",
]

SOURCE = "spanbus.engine"


@dataclass(slots=True, eq=False)
class _Run:
    workflow: Workflow
    run_id: str
    options: RunOptions
    left_out: frozenset[str]
    ancestors: Mapping[str, frozenset[str]]
    done: dict[str, anyio.Event]
    limiter: anyio.CapacityLimiter
    stop: Stop
    results: dict[str, PhaseResult] = field(default_factory=dict[str, PhaseResult])
    first_failure: PhaseResult | None = None
    exit: SystemExit | KeyboardInterrupt | None = None
    """Exit requested by a phase. The run raises it, because in a child task it would break the event loop."""
    scope: anyio.CancelScope | None = None

    def cancelled(self) -> str | None:
        """Return the first phase that was cancelled although the run was not."""
        return next(
            (
                phase.name
                for phase in self.workflow.phases
                if phase.name in self.results and self.results[phase.name].result == "cancellation"
            ),
            None,
        )

    def stopped(self) -> bool:
        """Whether the run was asked to stop and did not finish because of it."""
        return self.stop.asked > 0 and self.cancelled() is not None

    def scope_of(self, phase: str | None, attempt: int | None) -> RunScope:
        options = self.options
        return RunScope(
            self.run_id,
            self.workflow.name,
            phase,
            attempt,
            options.get("traceparent"),
            options.get("tracestate"),
        )


class BasicWorkflowEngine:
    """Runs workflows on a bus. One engine may run several at once.

    ``concurrency`` limits the concurrent phases of one run (default: one for each processor, at least two).
    ``interrupt_reason`` is called when a run is cancelled; it returns the ``reason`` of ``workflow.interrupted``.
    """

    def __init__(
        self,
        bus: WorkflowEventBus,
        *,
        concurrency: int | None = None,
        around: Around | None = None,
        interrupt_reason: Callable[[], str] | None = None,
    ) -> None:
        self._bus = bus
        self._concurrency = concurrency or max(2, os.cpu_count() or 2)
        self._around = around
        self._cancelled = interrupt_reason or (lambda: "cancelled")

    async def run(self, workflow: Workflow, options: RunOptions | None = None) -> RunResult:
        """Run ``workflow`` to its end and return its result. A failing phase does not raise.

        On cancellation every open phase ends as cancelled, then the run, and the cancellation propagates. ``SystemExit`` and
        ``KeyboardInterrupt`` of a phase are published and raised. Raises :class:`~spanbus.errors.DefinitionError`, before
        anything is published, if ``only`` or ``skip`` names an unknown phase.
        """
        options = options or {}
        check_options(options)
        only, skip = options.get("only", ()), options.get("skip", ())
        workflow = resolved(workflow.with_arguments(()), options.get("cwd") or Path.cwd())
        for name in (*only, *skip):
            workflow.phase(name)
        left_out = frozenset(
            phase.name
            for phase in workflow.phases
            if phase.name in skip or (only and phase.name not in only)
        )
        run = _Run(
            workflow,
            options.get("run_id") or new_run_id(),
            options,
            left_out,
            workflow.ancestors(),
            {phase.name: anyio.Event() for phase in workflow.phases},
            anyio.CapacityLimiter(options.get("concurrency") or self._concurrency),
            options.get("stop") or Stop(),
        )
        with use_bus(self._bus), within(run.scope_of(None, None)):
            return await self._run_announced(run)

    async def _run_announced(self, run: _Run) -> RunResult:
        """Run all phases between the run's start and end events."""
        name, rerun_of = run.workflow.name, run.options.get("rerun_of")
        began_ns = self._publish(
            WorkflowEvent.WORKFLOW_STARTED,
            {
                "workflow": name,
                "phases": [phase.name for phase in run.workflow.phases],
                "needs": {
                    phase.name: list(phase.needs) for phase in run.workflow.phases if phase.needs
                },
                **({"rerun_of": rerun_of} if rerun_of else {}),
            },
        )
        kind, ending = WorkflowEvent.WORKFLOW_INTERRUPTED, cast("dict[str, object]", {})
        try:
            async with anyio.create_task_group() as group:
                run.scope = group.cancel_scope
                for phase in run.workflow.phases:
                    group.start_soon(self._run_when_ready, run, phase, name=f"phase {phase.name}")
            if run.exit is not None:
                raise run.exit
            first = run.first_failure
            if run.stopped():
                ending = {"reason": run.stop.reason}
            elif first is not None:
                kind = WorkflowEvent.WORKFLOW_FAILED
                ending = {
                    "success": False,
                    "result": first.result,
                    "error_type": first.error_type,
                    "error": failure_summary(first),
                }
            elif (cancelled := run.cancelled()) is not None:
                ending = {"reason": f"phase {cancelled} was cancelled"}
            else:
                kind, ending = WorkflowEvent.WORKFLOW_COMPLETED, {"success": True}
        except (SystemExit, KeyboardInterrupt) as error:
            ending = {"reason": type(error).__name__}
            raise
        except BaseException:
            ending = {"reason": self._interrupt_reason(run)}
            raise
        finally:
            duration_s = (now_ns() - began_ns) / 1e9
            self._publish(kind, {"workflow": name, **ending, "duration": duration_s})
        phases = tuple(run.results[phase.name] for phase in run.workflow.phases)
        first = None if run.stopped() else run.first_failure
        result: ResultName = (
            first.result if first else "cancellation" if run.cancelled() is not None else "success"
        )
        return RunResult(
            run.run_id, name, result, first.error_type if first else None, duration_s, phases
        )

    def _interrupt_reason(self, run: _Run) -> str:
        return (run.options.get("interrupt_reason") or self._cancelled)()

    # --- one phase ----------------------------------------------------------------------------------------------------

    async def _run_when_ready(self, run: _Run, phase: Phase) -> None:
        """Wait for the phases that this one needs, then run or skip it."""
        for need in phase.needs:
            await run.done[need].wait()
        with within(run.scope_of(phase.name, 1)):
            result = self._skip_result(run, phase)
            if result is None:
                try:
                    async with run.limiter:
                        result = self._skip_result(run, phase) or await self._phase(run, phase)
                except (SystemExit, KeyboardInterrupt) as error:
                    run.exit = run.exit or error
                    if run.scope is not None:
                        run.scope.cancel()
                    return
        run.results[phase.name] = result
        if result.result in FAILED and run.first_failure is None:
            run.first_failure = result
        run.done[phase.name].set()

    def _skip_result(self, run: _Run, phase: Phase) -> PhaseResult | None:
        """Publish the skip of a phase that does not run, and return its result; None for a phase that runs."""
        reason = self._skip_reason(run, phase)
        if reason is not None:
            self._publish(WorkflowEvent.PHASE_SKIPPED, {"reason": reason})
            return PhaseResult(phase.name, "skip", attempts=0, reason=reason)
        if run.stop.at_once or (run.stop.asked and phase.when not in ("always", "failure")):
            reason = f"not started: {run.stop.reason}"
            self._publish(
                WorkflowEvent.PHASE_SKIPPED,
                {"reason": reason, "not_started": True, "result": "cancellation"},
            )
            return PhaseResult(phase.name, "cancellation", attempts=0, reason=reason)
        return None

    def _skip_reason(self, run: _Run, phase: Phase) -> str | None:
        if phase.name in run.left_out:
            return DESELECTED
        needs = {need: run.results[need] for need in phase.needs}
        if phase.when == "always":
            return None
        if phase.when == "failure":
            bad = [*FAILED, *(["cancellation"] if run.stop.asked else [])]
            return (
                None
                if any(run.results[each].result in bad for each in run.ancestors[phase.name])
                else "nothing upstream failed"
            )
        if callable(phase.when):
            try:
                return (
                    None
                    if phase.when({need: result.result for need, result in needs.items()})
                    else "its condition says no"
                )
            except Exception as error:
                return f"its condition failed: {class_name(type(error))}: {error_text(error)}"
        for need, result in needs.items():
            if result.result == "success" or (result.result == "skip" and need in run.left_out):
                continue
            if result.result == "cancellation" and run.stop.asked:
                continue  # not started because of the stop request, like this one
            return f"{need} did not succeed"
        return None

    async def _phase(self, run: _Run, phase: Phase) -> PhaseResult:
        """Run the attempts of a phase between its start and end events."""
        attempts, asked = 1, run.stop.asked
        began_ns = self._publish(
            WorkflowEvent.PHASE_STARTED,
            {
                "type": phase.type,
                "needs": list(phase.needs),
                **({"max_attempts": phase.retries + 1} if phase.retries else {}),
                **({"description": phase.description} if phase.description else {}),
            },
        )
        kind, ending = WorkflowEvent.PHASE_CANCELLED, cast("dict[str, object]", {})
        result: ResultName = "cancellation"
        failed: AttemptFailed | None = None
        stopped: AttemptStopped | None = None
        value: object = None
        policy = RetryPolicy(phase.retries, phase.retry_backoff_s)
        try:
            while True:
                attempt_ns = time.perf_counter_ns()
                try:
                    value = await self._attempt(run, phase, attempts)
                    failed = None
                    break
                except AttemptStopped as error:
                    stopped, failed = error, None
                    break
                except AttemptFailed as error:
                    failed = error
                    delay_s = policy.delay_s(attempts)
                    if delay_s is None:
                        break
                    self._publish(
                        WorkflowEvent.PHASE_RETRYING,
                        {
                            **error.payload(),
                            "next_attempt": attempts + 1,
                            "delay": delay_s,
                            "duration": (time.perf_counter_ns() - attempt_ns) / 1e9,
                        },
                        attempt=attempts,
                    )
                    if not await run.stop.sleep(delay_s, asked):
                        stopped, failed = AttemptStopped(failed.output_tail), None
                        break
                    attempts += 1
            if stopped is not None:
                ending = {"reason": stopped.reason or run.stop.reason}
                if stopped.output_tail:
                    ending["output_tail"] = stopped.output_tail
            elif failed is None:
                kind, ending, result = WorkflowEvent.PHASE_COMPLETED, {"success": True}, "success"
            else:
                kind, ending, result = WorkflowEvent.PHASE_FAILED, failed.payload(), failed.result
                if failed.output_tail:
                    ending["output_tail"] = failed.output_tail
        except (SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, SystemExit):
                kind = WorkflowEvent.PHASE_FAILED
                ending = {
                    "success": False,
                    "result": "failure",
                    "error_type": "SystemExit",
                    "error": f"SystemExit: {error.code}",
                }
            else:
                ending = {"reason": "KeyboardInterrupt"}
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and not cancelled_from_outside():
                ending = {"reason": "something that it awaited was cancelled"}
                failed = None
            else:
                ending = {"reason": self._interrupt_reason(run)}
                raise
        finally:
            duration_s = (now_ns() - began_ns) / 1e9
            self._publish(
                kind, {**ending, "duration": duration_s, "attempts": attempts}, attempt=attempts
            )
        return PhaseResult(
            phase.name,
            result,
            failed.error_type if failed else None,
            failed.error if failed else None,
            attempts,
            duration_s,
            value,
        )

    async def _attempt(self, run: _Run, phase: Phase, attempt: int) -> object:
        """Run one attempt. Raises :class:`AttemptFailed` or :class:`AttemptStopped`, or the cancellation itself."""
        execution = PhaseExecution(run.run_id, run.workflow.name, phase.name, attempt)
        with ExitStack() as stack:
            stack.enter_context(within(run.scope_of(phase.name, attempt)))
            carried = stack.enter_context(
                self._around(execution) if self._around is not None else nullcontext(EMPTY_ENV)
            )
            asked = run.stop.asked
            context = PhaseContext.of(
                run.options,
                phase,
                execution,
                {
                    **run.options.get("env", EMPTY_ENV),
                    **((phase.tty and run.options.get("terminal")) or EMPTY_ENV),
                    **phase.env,
                    **carried,
                },
                results=run.results,
                stopping=lambda: run.stop.asked > asked,
            )
            value: object = None

            def on_stop() -> None:
                """Cancel a function; commands get a signal from the code that requested the stop, and end by themselves."""
                if run.stop.ends(asked) or (
                    run.stop.asked > asked and not isinstance(phase.action, str)
                ):
                    scope.cancel()

            with (
                anyio.CancelScope(
                    deadline=anyio.current_time() + (phase.timeout_s or math.inf)
                ) as scope,
                run.stop.listening(on_stop),
            ):
                value = await self._call_and_classify(phase, context)
            if scope.cancelled_caught:
                tail = "\n".join(filter(None, context.unfinished)) or None
                if context.stopping is not None and context.stopping():
                    raise AttemptStopped(tail)
                raise AttemptFailed(
                    "timeout",
                    "timeout",
                    f"phase {phase.name} timed out after {phase.timeout_s:g} s",
                    None,
                    tail,
                )
            return value

    async def _call_and_classify(self, phase: Phase, context: PhaseContext) -> object:
        """Return the action's value; raise its errors as :class:`AttemptFailed` or :class:`AttemptStopped`."""
        try:
            value = await self._call(phase, context)
            said = cast("Mapping[str, object]", value) if isinstance(value, Mapping) else EMPTY_ENV
            if value is not False and said.get("success") is not False:
                return cast("object", value)
            error = said.get("error")
            raise AttemptFailed("failure", "unsuccessful", str(error) if error else None)
        except AttemptFailed:
            raise
        except Interrupted as error:
            raise AttemptStopped(error.output_tail) from error
        except PhaseTimeout as error:
            raise AttemptFailed(
                "timeout", "timeout", error_text(error), None, tail_of(error)
            ) from error
        except PhaseUnsuccessful as error:
            raise AttemptFailed(
                "failure", "unsuccessful", error_text(error) or None, None, tail_of(error)
            ) from error
        except PhaseLost as error:
            raise AttemptFailed("error", "killed", error_text(error)) from error
        except PhaseRevoked as error:
            raise AttemptStopped(reason=error_text(error)) from error
        except TimeoutError as error:
            raise AttemptFailed(
                "timeout", "timeout", error_text(error) or "timed out", trace_of(error)
            ) from error
        except Exception as error:
            raise AttemptFailed(
                "failure", class_name(type(error)), error_text(error), trace_of(error)
            ) from error

    async def _call(self, phase: Phase, context: PhaseContext) -> object:
        action = phase.action
        if isinstance(action, str):
            function = ACTIONS[action]
            return await cast(
                "Awaitable[object]", function(context, phase.name, event_bus=self._bus)
            )
        positional, asks_for_bus = parameters_taken(action)
        arguments: list[object] = [context, phase.name]
        options: dict[str, object] = {"event_bus": self._bus} if asks_for_bus else {}
        return await call(action, *arguments[:positional], **options)

    def _publish(
        self,
        event_type: WorkflowEvent,
        payload: Mapping[str, object],
        *,
        attempt: int | None = None,
    ) -> int:
        """Publish an event and return its time, from which durations are counted, so that none reaches beyond its end event."""
        identity: dict[str, object] = {}
        if attempt is not None:
            scope = current_scope.get()
            if scope is not None:
                identity = {**scope._asdict(), "attempt": attempt}
                identity.pop("workflow")
        receipt = self._bus.publish_nowait(
            event_type, {**payload, "timestamp": now_ns() / 1e9}, source=SOURCE, **identity
        )
        return receipt.event.at_ns
