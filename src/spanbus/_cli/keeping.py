"""The whole output of a run's commands, kept beside the local store and sent as logs where that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from spanbus._project import service_name
from spanbus._store.output import OutputLog
from spanbus._store.read_only import takes_files
from spanbus._workflow.actions import Kept
from spanbus._workflow.definition import Command
from spanbus._workflow.engine import PhaseExecution

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

Keep = Callable[[PhaseExecution, str, Command], Kept]


@contextmanager
def keeping(runtime: Runtime, run_id: str) -> Generator[Keep | None]:
    """Yield a function that opens a place for the output of each command; None where none is kept."""
    settings = runtime.settings
    local = settings.local != "off" and takes_files(settings.state_dir)
    if settings.sdk_disabled or settings.output == "off" or not local:
        yield None
        return
    wiring = runtime.wiring()
    send = wiring.output_logger()
    redactor = wiring.template.redactor
    with OutputLog(
        settings.state_dir,
        run_id,
        redactor.whole,
        settings.store_logs_bytes,
        project=service_name(),
    ) as log:

        def keep(execution: PhaseExecution, tool: str, command: Command) -> Kept:
            record = runtime.handle.correlator.tool(run_id, execution.phase, tool)
            argv = redactor.arguments(command.argv)
            emit = partial(send, record) if send is not None and record is not None else None
            return log.command(
                execution.phase,
                tool,
                argv,
                attempt=execution.attempt,
                span_id=f"{record.span_id:016x}" if record is not None else None,
                emit=emit,
            )

        yield keep
