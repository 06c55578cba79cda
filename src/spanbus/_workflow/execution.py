"""Options of a run, and the context that its phases get."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from spanbus._named_tuple import NamedTuple
from spanbus._suggest import did_you_mean
from spanbus._workflow.actions import ActionContext, Kept, Output
from spanbus._workflow.definition import Command, Phase
from spanbus._workflow.process import Interruption
from spanbus._workflow.results import PhaseResult
from spanbus._workflow.stop import Stop


class PhaseExecution(NamedTuple):
    """An attempt of a phase that is about to run."""

    run_id: str
    workflow: str
    phase: str
    attempt: int


Around = Callable[[PhaseExecution], AbstractContextManager[Mapping[str, str]]]
"""Context manager entered around each attempt, in the phase's task; yields extra environment for child processes."""


@dataclass(frozen=True, slots=True)
class PhaseContext(ActionContext):
    """First argument of a phase's function: an :class:`ActionContext` with the run, phase and attempt."""

    run_id: str = ""
    workflow: str = ""
    phase: str = ""
    attempt: int = 1
    results: Mapping[str, PhaseResult] = field(default_factory=dict[str, PhaseResult])

    @classmethod
    def of(
        cls,
        options: RunOptions,
        phase: Phase,
        execution: PhaseExecution,
        env: Mapping[str, str],
        *,
        results: Mapping[str, PhaseResult],
        stopping: Callable[[], bool],
    ) -> PhaseContext:
        """Return the context of one attempt."""
        output, keep, cwd = options.get("output"), options.get("keep"), options.get("cwd")
        if phase.cwd is not None:
            cwd = cwd / phase.cwd if cwd is not None else phase.cwd
        return cls(
            hooks=phase.hooks,
            command=phase.command,
            cwd=cwd,
            env=env,
            output=_output_of(output, phase.name) if output is not None else None,
            inherit=options.get("inherit", False),
            interruption=options.get("interruption"),
            stopping=stopping,
            keep=(lambda tool, what: keep(execution, tool, what)) if keep is not None else None,
            run_id=execution.run_id,
            workflow=execution.workflow,
            phase=phase.name,
            attempt=execution.attempt,
            results=dict(results),
        )


class RunOptions(TypedDict, total=False):
    """Options of one run. Each may be omitted; None means the same."""

    run_id: str | None
    """The run's id; default: a new one."""
    only: Collection[str]
    """The phases that run; default: all."""
    skip: Collection[str]
    """Phases that do not run."""
    concurrency: int | None
    """Maximum number of concurrent phases; default: the engine's."""
    traceparent: str | None
    """The caller's trace context, the parent of the run."""
    tracestate: str | None
    rerun_of: str | None
    """The run that this one repeats."""
    cwd: Path | None
    env: Mapping[str, str]
    """Environment variables for the tools."""
    terminal: Mapping[str, str] | None
    """Further variables for tools whose output is shown on a terminal; not for phases with ``tty`` false."""
    output: Callable[[str, str, str], None] | None
    """Called with phase, hook or program, and one line of its output."""
    inherit: bool
    """Tools use our standard streams."""
    interruption: Callable[[], Interruption | None] | None
    """Called on cancellation, for tools that use our standard streams; returns the signal for them."""
    interrupt_reason: Callable[[], str] | None
    """Called on cancellation; returns the ``reason`` of ``workflow.interrupted``."""
    stop: Stop | None
    """Stop requests: the run ends early, but running phases may finish by themselves."""
    keep: Callable[[PhaseExecution, str, Command], Kept] | None
    """Opens the sink for the whole output of a tool, by the tool's name and command."""


def check_options(options: RunOptions) -> None:
    """Raise ``TypeError`` for an unknown option, because ``TypedDict`` is checked by type checkers only."""
    for name in options.keys() - RunOptions.__optional_keys__:
        raise TypeError(
            f"no option of a run is called {name!r}{did_you_mean(name, RunOptions.__optional_keys__)}"
        )


def new_run_id() -> str:
    """Return a short, readable, unique id that sorts by time: ``20260101-120000-1a2b3c4d``."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"


def _output_of(output: Callable[[str, str, str], None], phase: str) -> Output:
    return lambda name, line: output(phase, name, line)
