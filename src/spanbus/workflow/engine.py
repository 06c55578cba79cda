"""Run a workflow, phase by phase, and publish what happened.

Independent phases run side by side within a limit. Start and end of a phase are paired in one place: whatever happens,
an exception, a time-out, a false result, a cancellation, ``SystemExit``, there is exactly one end event for every start.
"""

from __future__ import annotations

import inspect
import math
import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, cast

import anyio
import anyio.to_thread

from spanbus.errors import PhaseError, PhaseTimeout, PhaseUnsuccessful
from spanbus.workflow.actions import ACTIONS, ActionContext, Output
from spanbus.workflow.bus import WorkflowEventBus
from spanbus.workflow.current import RunScope, use_bus, within
from spanbus.workflow.definition import EMPTY_ENV, Phase, Workflow
from spanbus.workflow.events import WorkflowEvent
from spanbus.workflow.loops import cancelled_from_outside
from spanbus.workflow.process import Interruption
from spanbus.workflow.retry import RetryPolicy

ResultName = Literal["success", "failure", "timeout", "cancellation", "skip", "error"]

SOURCE = "spanbus.engine"
_FAILED: Collection[str] = ("failure", "timeout", "error")


class PhaseExecution(NamedTuple):
    """One attempt of a phase that is about to run."""

    run_id: str
    workflow: str
    phase: str
    attempt: int


Around = Callable[[PhaseExecution], AbstractContextManager[Mapping[str, str]]]
"""Entered in the phase's own task around each attempt; gives the environment that its child processes get on top."""


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """How a phase ended; ``duration_s`` is that of all attempts with the waits between them, on the monotonic clock."""

    name: str
    result: ResultName
    error_type: str | None = None
    error: str | None = None
    attempts: int = 1
    duration_s: float = 0.0
    value: object = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. Its result and error type are those of the first phase that failed; else a phase that was cancelled
    makes it a cancellation."""

    run_id: str
    workflow: str
    result: ResultName
    error_type: str | None
    duration_s: float
    phases: tuple[PhaseResult, ...]

    @property
    def success(self) -> bool:
        return self.result == "success"


@dataclass(frozen=True, slots=True)
class PhaseContext(ActionContext):
    """What the function of a phase is given: an :class:`ActionContext` that knows its run."""

    run_id: str = ""
    workflow: str = ""
    phase: str = ""
    attempt: int = 1
    results: Mapping[str, PhaseResult] = field(default_factory=dict[str, PhaseResult])


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run, apart from what: ids, choice of phases, the caller's trace context, where the tools run and write."""

    run_id: str | None = None
    only: Collection[str] = ()
    skip: Collection[str] = ()
    traceparent: str | None = None
    tracestate: str | None = None
    rerun_of: str | None = None
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY_ENV)
    output: Callable[[str, str, str], None] | None = None
    """Takes phase, hook or program, and one line of its output."""
    inherit: bool = False
    interruption: Callable[[], Interruption | None] | None = None
    """Asked on cancellation, for tools that share our terminal."""


class _Failed(Exception):
    """An attempt that did not succeed, with what is to be published of it."""

    def __init__(self, result: ResultName, error_type: str, error: str | None, stacktrace: str | None, output_tail: str | None) -> None:
        super().__init__(error)
        self.result: ResultName = result
        self.error_type = error_type
        self.error = error
        self.stacktrace = stacktrace
        self.output_tail = output_tail

    def payload(self) -> dict[str, object]:
        return {
            "success": False, "result": self.result, "error_type": self.error_type,
            **({"error": self.error} if self.error else {}), **({"stacktrace": self.stacktrace} if self.stacktrace else {}),
        }


@dataclass(slots=True, eq=False)
class _Run:
    workflow: Workflow
    run_id: str
    options: RunOptions
    left_out: frozenset[str]
    done: dict[str, anyio.Event]
    limiter: anyio.CapacityLimiter
    results: dict[str, PhaseResult] = field(default_factory=dict[str, PhaseResult])
    first_failure: PhaseResult | None = None
    exit: SystemExit | KeyboardInterrupt | None = None
    """What ended the program from inside a phase; raised by the run, because an event loop does not survive it in a child task."""
    scope: anyio.CancelScope | None = None

    def cancelled(self) -> str | None:
        """The first phase that was cancelled though the run was not."""
        return next((phase.name for phase in self.workflow.phases if phase.name in self.results and self.results[phase.name].result == "cancellation"), None)


class BasicWorkflowEngine:
    """Runs workflows on a bus. One engine may run several at once.

    ``concurrency`` limits the phases of one run that work side by side (default: one for each processor, at least two).
    ``interrupt_reason`` is asked for the reason that ``workflow.interrupted`` tells when a run is cancelled.
    """

    def __init__(
        self, bus: WorkflowEventBus, *, concurrency: int | None = None, around: Around | None = None, interrupt_reason: Callable[[], str] | None = None
    ) -> None:
        self._bus = bus
        self._concurrency = concurrency or max(2, os.cpu_count() or 2)
        self._around = around
        self._interrupt_reason = interrupt_reason or (lambda: "cancelled")

    async def run(self, workflow: Workflow, options: RunOptions | None = None) -> RunResult:
        """Run ``workflow`` to its end and tell how it ended; a failing phase raises nothing here.

        Cancelling this ends every open phase as cancelled, then the run, and the cancellation goes on. ``SystemExit`` and
        ``KeyboardInterrupt`` from a phase are published and raised. Raises :class:`~spanbus.errors.DefinitionError` for
        ``only`` and ``skip`` that name no phase, before anything is published.
        """
        options = options or RunOptions()
        for name in (*options.only, *options.skip):
            workflow.phase(name)
        left_out = frozenset(
            phase.name for phase in workflow.phases if phase.name in options.skip or (options.only and phase.name not in options.only)
        )
        run = _Run(
            workflow, options.run_id or new_run_id(), options, left_out, {phase.name: anyio.Event() for phase in workflow.phases},
            anyio.CapacityLimiter(self._concurrency),
        )
        scope = RunScope(run.run_id, workflow.name, None, None, options.traceparent, options.tracestate)
        with use_bus(self._bus), within(scope):
            return await self._announced(run)

    async def _announced(self, run: _Run) -> RunResult:
        """The run's own start and end, paired."""
        began_ns = time.perf_counter_ns()
        name = run.workflow.name
        self._say(
            WorkflowEvent.WORKFLOW_STARTED,
            {"workflow": name, "phases": [phase.name for phase in run.workflow.phases], **({"rerun_of": run.options.rerun_of} if run.options.rerun_of else {})},
        )
        kind, ending = WorkflowEvent.WORKFLOW_INTERRUPTED, cast("dict[str, object]", {})
        try:
            async with anyio.create_task_group() as group:
                run.scope = group.cancel_scope
                for phase in run.workflow.phases:
                    group.start_soon(self._scheduled, run, phase, name=f"phase {phase.name}")
            if run.exit is not None:
                raise run.exit
            first = run.first_failure
            if first is not None:
                kind = WorkflowEvent.WORKFLOW_FAILED
                ending = {"success": False, "result": first.result, "error_type": first.error_type, "error": _why_failed(first)}
            elif (cancelled := run.cancelled()) is not None:
                ending = {"reason": f"phase {cancelled} was cancelled"}
            else:
                kind, ending = WorkflowEvent.WORKFLOW_COMPLETED, {"success": True}
        except (SystemExit, KeyboardInterrupt) as error:
            ending = {"reason": type(error).__name__}
            raise
        except BaseException:
            ending = {"reason": self._interrupt_reason()}
            raise
        finally:
            duration_s = (time.perf_counter_ns() - began_ns) / 1e9
            self._say(kind, {"workflow": name, **ending, "duration": duration_s})
        phases = tuple(run.results[phase.name] for phase in run.workflow.phases)
        first = run.first_failure
        result: ResultName = first.result if first else "cancellation" if run.cancelled() is not None else "success"
        return RunResult(run.run_id, name, result, first.error_type if first else None, duration_s, phases)

    # --- one phase ----------------------------------------------------------------------------------------------------

    async def _scheduled(self, run: _Run, phase: Phase) -> None:
        """Wait for what the phase needs, then run it or say why not."""
        for need in phase.needs:
            await run.done[need].wait()
        scope = RunScope(run.run_id, run.workflow.name, phase.name, 1, run.options.traceparent, run.options.tracestate)
        with within(scope):
            reason = self._why_not(run, phase)
            if reason is not None:
                self._say(WorkflowEvent.PHASE_SKIPPED, {"reason": reason})
                result = PhaseResult(phase.name, "skip", attempts=0, reason=reason)
            else:
                try:
                    async with run.limiter:
                        result = await self._phase(run, phase)
                except (SystemExit, KeyboardInterrupt) as error:
                    run.exit = run.exit or error
                    if run.scope is not None:
                        run.scope.cancel()
                    return
        run.results[phase.name] = result
        if result.result in _FAILED and run.first_failure is None:
            run.first_failure = result
        run.done[phase.name].set()

    def _why_not(self, run: _Run, phase: Phase) -> str | None:
        if phase.name in run.left_out:
            return "left out by the caller"
        needs = {need: run.results[need] for need in phase.needs}
        bad = [
            need for need, result in needs.items() if result.result != "success" and not (result.result == "skip" and need in run.left_out)
        ]
        if callable(phase.when):
            try:
                return None if phase.when({need: result.result for need, result in needs.items()}) else "its condition says no"
            except Exception as error:
                return f"its condition failed: {type(error).__name__}: {error}"
        if phase.when == "always":
            return None
        if phase.when == "failure":
            return None if any(result.result in _FAILED for result in needs.values()) else "nothing that it needs failed"
        return f"{bad[0]} did not succeed" if bad else None

    async def _phase(self, run: _Run, phase: Phase) -> PhaseResult:
        """A phase's start and its one end, with the attempts between them."""
        began_ns = time.perf_counter_ns()
        attempts = 1
        self._say(WorkflowEvent.PHASE_STARTED, {"type": phase.type, "needs": list(phase.needs)})
        kind, ending = WorkflowEvent.PHASE_CANCELLED, cast("dict[str, object]", {})
        result: ResultName = "cancellation"
        failed: _Failed | None = None
        value: object = None
        policy = RetryPolicy(phase.retries, phase.retry_backoff_s)
        try:
            while True:
                attempt_ns = time.perf_counter_ns()
                try:
                    value = await self._attempt(run, phase, attempts)
                    failed = None
                    break
                except _Failed as error:
                    failed = error
                    delay_s = policy.delay_s(attempts)
                    if delay_s is None:
                        break
                    self._say(
                        WorkflowEvent.PHASE_RETRYING,
                        {**error.payload(), "next_attempt": attempts + 1, "delay": delay_s, "duration": (time.perf_counter_ns() - attempt_ns) / 1e9},
                        attempt=attempts,
                    )
                    await anyio.sleep(delay_s)
                    attempts += 1
            if failed is None:
                kind, ending, result = WorkflowEvent.PHASE_COMPLETED, {"success": True}, "success"
            else:
                kind, ending, result = WorkflowEvent.PHASE_FAILED, failed.payload(), failed.result
                if failed.output_tail:
                    ending["output_tail"] = failed.output_tail
        except (SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, SystemExit):
                kind = WorkflowEvent.PHASE_FAILED
                ending = {"success": False, "result": "failure", "error_type": "SystemExit", "error": f"SystemExit: {error.code}"}
            else:
                ending = {"reason": "KeyboardInterrupt"}
            raise
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()) and not cancelled_from_outside():
                ending = {"reason": "something that it awaited was cancelled"}
                failed = None
            else:
                ending = {"reason": self._interrupt_reason()}
                raise
        finally:
            duration_s = (time.perf_counter_ns() - began_ns) / 1e9
            self._say(kind, {**ending, "duration": duration_s, "attempts": attempts}, attempt=attempts)
        return PhaseResult(
            phase.name, result, failed.error_type if failed else None, failed.error if failed else None, attempts, duration_s, value
        )

    async def _attempt(self, run: _Run, phase: Phase, attempt: int) -> object:
        """One attempt; everything that is not a success comes out as :class:`_Failed`, a cancellation as itself."""
        execution = PhaseExecution(run.run_id, run.workflow.name, phase.name, attempt)
        options = run.options
        with ExitStack() as stack:
            stack.enter_context(
                within(RunScope(run.run_id, run.workflow.name, phase.name, attempt, options.traceparent, options.tracestate))
            )
            carried = stack.enter_context(self._around(execution) if self._around is not None else nullcontext(EMPTY_ENV))
            output = options.output
            context = PhaseContext(
                hooks=phase.hooks, command=phase.command, cwd=options.cwd / phase.cwd if options.cwd is not None and phase.cwd is not None else phase.cwd or options.cwd, env={**options.env, **phase.env, **carried},
                output=_output_of(output, phase.name) if output is not None else None, inherit=options.inherit, interruption=options.interruption, run_id=run.run_id,
                workflow=run.workflow.name, phase=phase.name, attempt=attempt, results=dict(run.results),
            )
            value: object = None
            try:
                with anyio.CancelScope(deadline=anyio.current_time() + (phase.timeout_s or math.inf)) as scope:
                    value = await self._call(phase, context)
                if scope.cancelled_caught:
                    tail = "\n".join(filter(None, context.unfinished)) or None
                    raise _Failed("timeout", "timeout", f"phase {phase.name} timed out after {phase.timeout_s:g} s", None, tail)
            except _Failed:
                raise
            except PhaseTimeout as error:
                raise _Failed("timeout", "timeout", str(error), None, _tail_of(error)) from error
            except PhaseUnsuccessful as error:
                raise _Failed("failure", "unsuccessful", str(error) or None, None, _tail_of(error)) from error
            except TimeoutError as error:
                raise _Failed("timeout", "timeout", str(error) or "timed out", _trace(error), None) from error
            except Exception as error:
                raise _Failed("failure", _class_name(error), str(error), _trace(error), None) from error
            if value is False or (isinstance(value, Mapping) and cast("Mapping[str, object]", value).get("success") is False):
                said = cast("Mapping[str, object]", value).get("error") if isinstance(value, Mapping) else None
                raise _Failed("failure", "unsuccessful", str(said) if said else None, None, None)
            return cast("object", value)

    async def _call(self, phase: Phase, context: PhaseContext) -> object:
        action = phase.action
        if isinstance(action, str):
            function = ACTIONS[action]
            return await cast("Callable[..., object]", function)(context, phase.name, event_bus=self._bus)  # type: ignore[misc]
        arguments, options = _arguments(action, context, phase.name, self._bus)
        if inspect.iscoroutinefunction(action) or inspect.iscoroutinefunction(getattr(type(action), "__call__", None)):  # noqa: B004
            return await action(*arguments, **options)  # type: ignore[misc]
        value = await anyio.to_thread.run_sync(lambda: action(*arguments, **options), abandon_on_cancel=True)
        return await value if inspect.isawaitable(value) else value

    def _say(self, event_type: WorkflowEvent, payload: Mapping[str, object], *, attempt: int | None = None) -> None:
        identity: dict[str, object] = {}
        if attempt is not None:
            from spanbus.workflow.current import current_scope

            scope = current_scope.get()
            if scope is not None:
                identity = {**scope._asdict(), "attempt": attempt}
                identity.pop("workflow")
        self._bus.publish_nowait(event_type, {**payload, "timestamp": time.time_ns() / 1e9}, source=SOURCE, **identity)


def new_run_id() -> str:
    """Short, readable, unique, and sorted by time: ``20260101-120000-1a2b3c4d``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"


def _output_of(output: Callable[[str, str, str], None], phase: str) -> Output:
    return lambda name, line: output(phase, name, line)


def _arguments(action: Callable[..., object], context: PhaseContext, name: str, bus: WorkflowEventBus) -> tuple[list[object], dict[str, object]]:
    """As many of context and step id as the function takes; the bus where it asks for ``event_bus``."""
    try:
        parameters = inspect.signature(action).parameters.values()
    except (TypeError, ValueError):
        return [context], {}
    positional = sum(parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and parameter.name != "event_bus" for parameter in parameters)
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        positional = 2
    options: dict[str, object] = {"event_bus": bus} if any(parameter.name == "event_bus" for parameter in parameters) else {}
    given: list[object] = [context, name]
    return given[:positional], options


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _why_failed(phase: PhaseResult) -> str:
    if phase.error is not None and phase.error.startswith(f"phase {phase.name} "):
        return phase.error
    return f"phase {phase.name} {'timed out' if phase.result == 'timeout' else 'failed'}{f': {phase.error}' if phase.error else ''}"


def _tail_of(error: PhaseError) -> str | None:
    tail = getattr(error, "output_tail", None)
    return tail if isinstance(tail, str) else None


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))

