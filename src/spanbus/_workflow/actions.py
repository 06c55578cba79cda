"""The built-in actions of a workflow, which run real tools and publish their events.

Each is ``async (context, step_id, event_bus=None, **params)`` and returns ``{"phase": ..., "success": True}``. The bus is
the given one (ours, or any with an async ``publish``), else :func:`~spanbus._workflow.current.current_bus`; without a bus
nothing is published. A failure or cancellation is published and raised; subscribers recognize a cancellation by its error
text.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict, cast

import anyio

from spanbus._semantics import error_text
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.current import current_bus
from spanbus._workflow.definition import EMPTY_ENV, Command, command
from spanbus._workflow.events import WorkflowEvent
from spanbus._workflow.process import Interruption, ProcessResult, Remains, run_process
from spanbus.errors import PhaseError, PhaseTimeout, PhaseUnsuccessful

Output = Callable[[str, str], None]
"""Takes the name of the hook or program and one line of its output."""


class Publisher(Protocol):
    """A bus of another library: ``publish`` is awaited, and its result is ignored."""

    def publish(
        self, event_type: WorkflowEvent, payload: dict[str, object], /, *, source: str
    ) -> Awaitable[object]: ...


ActionBus = WorkflowEventBus | Publisher


class ActionResult(TypedDict):
    """Return value of an action that succeeded."""

    phase: str
    success: bool


class CommandFailed(PhaseUnsuccessful):
    """A command exited with a code other than zero."""

    def __init__(self, name: str, result: ProcessResult) -> None:
        super().__init__(result.error or f"{name} ended with exit code {result.exit_code}")
        self.name = name
        self.exit_code = result.exit_code
        self.output_tail = result.tail


class CommandTimedOut(PhaseTimeout):
    """A command exceeded its own timeout."""

    def __init__(self, name: str, timeout_s: float, output_tail: str = "") -> None:
        super().__init__(f"{name} timed out after {timeout_s:g} s")
        self.name = name
        self.timeout_s = timeout_s
        self.output_tail = output_tail


class HooksFailed(PhaseUnsuccessful):
    """Some hooks of a strategy failed; all of them were run."""

    def __init__(self, failed: Sequence[str], total: int, output_tail: str) -> None:
        super().__init__(f"{len(failed)} of {total} hooks failed: {', '.join(failed)}")
        self.failed = tuple(failed)
        self.output_tail = output_tail


class Interrupted(PhaseError):
    """A command was ended because the run was asked to stop."""

    def __init__(self, name: str, output_tail: str = "") -> None:
        super().__init__(f"{name} was interrupted")
        self.name = name
        self.output_tail = output_tail


class Kept(Protocol):
    """Sink for the whole output of one tool."""

    def line(self, text: str) -> None: ...

    def close(self, ending: Mapping[str, object]) -> None: ...


@dataclass(frozen=True, slots=True)
class ActionContext:
    """Tools and environment of an action.

    ``output`` is called with every line of the tools; with ``inherit`` they use our own streams instead. A cancelled tool
    appends the end of its output to ``unfinished``. ``stopping`` returns whether the run was asked to stop since this work
    began; a tool that ends then counts as interrupted. ``keep`` opens the sink for the whole output of a tool.
    """

    hooks: tuple[Command, ...] = ()
    command: Command | None = None
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY_ENV)
    output: Output | None = None
    inherit: bool = False
    interruption: Callable[[], Interruption | None] | None = None
    unfinished: list[str] = field(default_factory=list[str])
    stopping: Callable[[], bool] | None = None
    keep: Callable[[str, Command], Kept] | None = None


async def run_fast_hooks(
    context: object, step_id: str, event_bus: ActionBus | None = None, **params: object
) -> ActionResult:
    """Run the hooks of strategy ``fast``. Raises :class:`HooksFailed` when one of them failed."""
    return await _stage(context, step_id, event_bus, params, "strategy", "fast")


async def run_comprehensive_hooks(
    context: object, step_id: str, event_bus: ActionBus | None = None, **params: object
) -> ActionResult:
    """Run the hooks of strategy ``comprehensive``. Raises :class:`HooksFailed` when one of them failed."""
    return await _stage(context, step_id, event_bus, params, "strategy", "comprehensive")


async def run_code_cleaning(
    context: object, step_id: str, event_bus: ActionBus | None = None, **params: object
) -> ActionResult:
    """Run the code cleaner. Raises :class:`CommandFailed` when its exit code is not zero."""
    return await _stage(context, step_id, event_bus, params, "phase", "cleaning")


async def run_test_workflow(
    context: object, step_id: str, event_bus: ActionBus | None = None, **params: object
) -> ActionResult:
    """Run the tests. Raises :class:`CommandFailed` when their exit code is not zero."""
    return await _stage(context, step_id, event_bus, params, "phase", "testing")


async def run_command(
    context: object, step_id: str, event_bus: ActionBus | None = None, **params: object
) -> ActionResult:
    """Run a phase's command; only the events of the command are published. Raises :class:`CommandFailed`."""
    work = _work(context, params)
    bus = event_bus or current_bus()
    await _run_all(work, bus, step_id, None)
    return {"phase": step_id, "success": True}


ACTIONS: Mapping[str, Callable[..., object]] = {
    "fast_hooks": run_fast_hooks,
    "code_cleaning": run_code_cleaning,
    "comprehensive_hooks": run_comprehensive_hooks,
    "test_workflow": run_test_workflow,
    "command": run_command,
}


_STAGE_EVENTS = {
    "strategy": (
        WorkflowEvent.HOOK_STRATEGY_STARTED,
        WorkflowEvent.HOOK_STRATEGY_COMPLETED,
        WorkflowEvent.HOOK_STRATEGY_FAILED,
    ),
    "phase": (
        WorkflowEvent.QUALITY_PHASE_STARTED,
        WorkflowEvent.QUALITY_PHASE_COMPLETED,
        WorkflowEvent.WORKFLOW_FAILED,
    ),
}


async def _stage(
    context: object,
    step_id: str,
    event_bus: ActionBus | None,
    params: Mapping[str, object],
    kind: str,
    name: str,
) -> ActionResult:
    """Run the tools of a hook strategy or a quality phase between its start and end events."""
    bus, work = event_bus or current_bus(), _work(context, params)
    async with _with_events(bus, {"step_id": step_id, kind: name}, *_STAGE_EVENTS[kind]):
        await _run_all(work, bus, step_id, name)
    return {"phase": f"{name}_hooks" if kind == "strategy" else name, "success": True}


@asynccontextmanager
async def _with_events(
    bus: ActionBus | None,
    about: Mapping[str, object],
    started: WorkflowEvent,
    completed: WorkflowEvent,
    failed: WorkflowEvent,
) -> AsyncGenerator[None]:
    """Context manager that publishes the start and exactly one end of an action."""
    if bus is None:
        yield
        return
    began_ns = time.perf_counter_ns()
    await _publish(bus, started, about)
    ending: dict[str, object] = {}
    kind = failed
    try:
        yield
        kind = completed
        ending["success"] = True
    except PhaseError as error:
        ending = (
            {}
            if isinstance(error, PhaseUnsuccessful) and type(error) in (HooksFailed, CommandFailed)
            else {"error": str(error)}
        )
        raise
    except BaseException as error:
        said = error_text(error)
        ending = {"error": f"{type(error).__name__}: {said}" if said else type(error).__name__}
        raise
    finally:
        duration_s = (time.perf_counter_ns() - began_ns) / 1e9
        await _publish(bus, kind, {**about, **ending, "duration": duration_s})


async def _publish(bus: ActionBus, kind: WorkflowEvent, payload: Mapping[str, object]) -> None:
    """Publish an event. A foreign bus is awaited, shielded from a cancellation of this task."""
    payload = {**payload, "timestamp": time.time_ns() / 1e9}
    if isinstance(bus, WorkflowEventBus):
        bus.publish_nowait(kind, payload, source=_SOURCE)
        return
    with anyio.CancelScope(shield=True):
        await bus.publish(kind, payload, source=_SOURCE)


_SOURCE = "spanbus.workflow"


# --- tools ------------------------------------------------------------------------------------------------------------


def _work(context: object, params: Mapping[str, object]) -> ActionContext:
    """Return the work of an action, from the call's parameters, else from a context of any type."""
    base = context if isinstance(context, ActionContext) else _from_context(context)
    hooks, run, cwd, env = (
        params.get("hooks"),
        params.get("run"),
        params.get("cwd"),
        params.get("env"),
    )
    return ActionContext(
        hooks=_commands(hooks) if hooks is not None else base.hooks,
        command=command(run) if run is not None else base.command,
        cwd=Path(str(cwd)) if cwd is not None else base.cwd,
        env={**base.env, **cast("Mapping[str, str]", env)}
        if isinstance(env, Mapping)
        else base.env,
        output=base.output,
        inherit=base.inherit,
        interruption=base.interruption,
        unfinished=base.unfinished,
        stopping=base.stopping,
        keep=base.keep,
    )


def _from_context(context: object) -> ActionContext:
    members = cast("Mapping[str, object]", context) if isinstance(context, Mapping) else None

    def get(key: str) -> object:
        return members.get(key) if members is not None else getattr(context, key, None)  # pyright: ignore[reportUnknownArgumentType]

    hooks, run, cwd, env = get("hooks"), get("run") or get("command"), get("cwd"), get("env")
    return ActionContext(
        hooks=_commands(cast("object", hooks)) if isinstance(hooks, list | tuple) else (),
        command=run
        if isinstance(run, Command)
        else command(cast("object", run))
        if isinstance(run, str | list | tuple)
        else None,
        cwd=Path(cwd) if isinstance(cwd, str | Path) else None,
        env=cast("Mapping[str, str]", env) if isinstance(env, Mapping) else EMPTY_ENV,
    )


def _commands(hooks: object) -> tuple[Command, ...]:
    made: list[Command] = []
    for index, hook in enumerate(cast("Sequence[object]", hooks)):
        if isinstance(hook, Command):
            made.append(hook)
        elif isinstance(hook, Mapping):
            table = cast("Mapping[str, object]", hook)
            parsed = command(
                table.get("run"), shell=table.get("shell") is True, where=f"hooks[{index}].run"
            )
            made.append(
                Command(parsed.argv, parsed.shell, str(table.get("name") or parsed.executable))
            )
        else:
            parsed = command(hook, where=f"hooks[{index}]")
            made.append(Command(parsed.argv, parsed.shell, parsed.executable))
    return tuple(made)


async def _run_all(
    work: ActionContext, bus: ActionBus | None, step_id: str, stage: str | None
) -> None:
    """Run every hook, even if an earlier one failed; then the command."""
    failed: list[str] = []
    tail = ""
    for hook in work.hooks:
        name = hook.name or hook.executable
        result = await _run_one(work, bus, hook, name, step_id, stage, is_hook=True)
        if not result.success:
            failed.append(name)
            tail = result.tail or result.error or tail
    if failed:
        raise HooksFailed(failed, len(work.hooks), tail)
    if work.command is not None:
        result = await _run_one(
            work, bus, work.command, work.command.executable, step_id, stage, is_hook=False
        )
        if not result.success:
            raise CommandFailed(work.command.executable, result)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return our environment with the given variables; a new ``TRACEPARENT`` drops the old ``TRACESTATE``."""
    env = {**os.environ, **given}
    if "TRACEPARENT" in given and "TRACESTATE" not in given:
        env.pop("TRACESTATE", None)
    return env


async def _run_one(
    work: ActionContext,
    bus: ActionBus | None,
    what: Command,
    name: str,
    step_id: str,
    stage: str | None,
    *,
    is_hook: bool,
) -> ProcessResult:
    """Run one tool between its start event and exactly one end event."""
    about: dict[str, object] = {
        "step_id": step_id,
        "executable": what.executable,
        "command": list(what.argv),
    }
    if is_hook:
        about["hook"] = name
    if stage is not None:
        about["stage"] = stage
    began_ns = time.perf_counter_ns()
    if bus is not None:
        await _publish(bus, WorkflowEvent.HOOK_EXECUTION_STARTED, about)
    ending: dict[str, object] = {"status": "error"}
    kind = WorkflowEvent.HOOK_EXECUTION_FAILED
    remains = Remains()
    kept = work.keep(name, what) if work.keep is not None else None
    on_line = _line_sink(work.output, kept, name)
    try:
        with anyio.move_on_after(what.timeout_s) as scope:
            result = await run_process(
                what,
                env=_environment({**work.env, **what.env}),
                cwd=work.cwd,
                inherit=work.inherit,
                interruption=work.interruption,
                stopping=work.stopping,
                remains=remains,
                on_line=on_line,
            )
            if work.stopping is not None and work.stopping():
                ending = {"status": "cancelled", "output_tail": result.tail}
                if result.exit_code is not None:
                    ending["exit_code"] = result.exit_code
                raise Interrupted(name, result.tail)
            if result.success:
                kind = WorkflowEvent.HOOK_EXECUTION_COMPLETED
                ending = {"status": "passed", "exit_code": 0}
            else:
                ending = {
                    "status": "failed" if result.error is None else "error",
                    "exit_code": result.exit_code,
                    "output_tail": result.tail,
                }
                if result.error is not None:
                    ending["error"] = result.error
                    if on_line is not None:
                        on_line(result.error)
            return result
        assert scope.cancelled_caught
        ending = {
            "status": "timeout",
            "error": f"{name} timed out after {what.timeout_s:g} s",
            "output_tail": remains.tail.text(),
        }
        raise CommandTimedOut(name, what.timeout_s or 0.0, remains.tail.text())
    except anyio.get_cancelled_exc_class():
        ending = {"status": "cancelled", "output_tail": remains.tail.text()}
        if remains.exit_code is not None:
            ending["exit_code"] = remains.exit_code
        work.unfinished.append(remains.tail.text())
        raise
    finally:
        if kept is not None:
            kept.close(ending)
        if bus is not None:
            ending["duration"] = (time.perf_counter_ns() - began_ns) / 1e9
            await _publish(bus, kind, {**about, **ending})


def _line_sink(output: Output | None, kept: Kept | None, name: str) -> Callable[[str], None] | None:
    """Return a function that passes a tool's lines to ``output`` and ``kept``; None without either."""
    if kept is None:
        return (lambda line: output(name, line)) if output is not None else None

    def tell(line: str) -> None:
        kept.line(line)
        if output is not None:
            output(name, line)

    return tell
