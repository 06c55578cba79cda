"""Storage of the whole output of the commands of ``spanbus run``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spanbus._wiring.output import KeptOutput
from spanbus._workflow.actions import Kept
from spanbus._workflow.definition import Command
from spanbus._workflow.engine import PhaseExecution

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

Keep = Callable[[PhaseExecution, str, Command], Kept]


@contextmanager
def keeping(runtime: Runtime, run_id: str) -> Generator[Keep | None]:
    """Yield a function that opens storage for the output of a command, or None if output is not kept."""
    if not KeptOutput.is_wanted(runtime.settings):
        yield None
        return
    correlator = runtime.handle.correlator
    with KeptOutput(runtime.settings, runtime.wiring(), correlator, run_id) as kept:
        yield lambda execution, tool, command: kept.command(
            execution.phase, tool, command.argv, attempt=execution.attempt
        )
