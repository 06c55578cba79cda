"""Run one workflow from the command line: signals, progress, record, delivery."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import anyio
import anyio.abc

from spanbus.errors import StreamError
from spanbus.runtime import Runtime
from spanbus.workflow.definition import Workflow
from spanbus.workflow.engine import RunResult
from spanbus.workflow.events import Event
from spanbus.workflow.process import Interruption, kill_all

SIGNAL_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}
_INSISTED = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """Which phases, under which id."""

    only: Collection[str] = ()
    skip: Collection[str] = ()
    run_id: str | None = None
    rerun_of: str | None = None


@dataclass(slots=True)
class Outcome:
    """How a run ended: ``result`` is None when a signal or the program itself ended it."""

    result: RunResult | None = None
    signal_name: str | None = None
    exit_code: int = field(default=0)

    def interruption(self) -> Interruption | None:
        """The signal, for a command that shares our streams; Ctrl-C reached it through the terminal already."""
        if self.signal_name is None:
            return None
        number = signal.Signals[self.signal_name]
        return Interruption(number, number == signal.SIGINT and _in_foreground())


def run_workflow(
    runtime: Runtime, workflow: Workflow, choice: Choice, *, observers: Sequence[Callable[[Event], object]] = (),
    output: Callable[[str, str, str], None] | None = None, inherit: bool = False, cwd: Path | None = None,
) -> Outcome:
    """Run to the end, or until SIGINT, SIGTERM or SIGHUP cancels it; the third signal ends the process at once."""
    outcome = Outcome()

    async def main() -> None:
        with ExitStack() as stack:
            for observer in observers:
                token = runtime.bus.subscribe(None, observer)
                stack.callback(runtime.bus.unsubscribe, token)
            async with anyio.create_task_group() as group:
                scope = anyio.CancelScope()
                await group.start(_watch_signals, scope, outcome)
                with scope:
                    outcome.result = await runtime.run(
                        workflow, only=choice.only, skip=choice.skip, run_id=choice.run_id, rerun_of=choice.rerun_of, output=output,
                        inherit=inherit, cwd=cwd, interrupt_reason=lambda: outcome.signal_name or "cancelled", interruption=outcome.interruption,
                    )
                group.cancel_scope.cancel()

    try:
        anyio.run(main)
    except KeyboardInterrupt:
        outcome.signal_name = "SIGINT"
    except BaseExceptionGroup as group:
        raise _single(group) from None
    if outcome.signal_name is not None:
        outcome.exit_code = SIGNAL_CODES.get(outcome.signal_name, 130)
    elif outcome.result is not None and not outcome.result.success:
        outcome.exit_code = 1
    return outcome


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C goes to our process group."""
    for descriptor in range(3):
        try:
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                return True
        except (OSError, AttributeError):
            continue
    return False


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of nested groups, where it is one."""
    found = group.exceptions
    while len(found) == 1:
        error = found[0]
        if not isinstance(error, BaseExceptionGroup):
            return error
        found = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return group


async def _watch_signals(
    scope: anyio.CancelScope, outcome: Outcome, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """The first signal cancels the run; the tools get their seconds of grace; whoever insists twice more is obeyed."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    try:
        with anyio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            heard = 0
            async for which in signals:
                heard += 1
                if heard >= _INSISTED:
                    kill_all()
                    os._exit(SIGNAL_CODES.get(which.name, 130))  # what was spooled stays
                if outcome.signal_name is None:
                    outcome.signal_name = which.name
                    print(f"spanbus: {which.name}, ending what is open", file=sys.stderr)
                scope.cancel()
    except NotImplementedError:  # an event loop without signal handlers: KeyboardInterrupt does it
        task_status.started()


class Recording:
    """Writes every event of the bus as one JSON line; a name that ends in .gz is compressed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Recording:
        try:
            if str(self._path).endswith(".gz"):
                self._file = cast("IO[str]", gzip.open(self._path, "wt", encoding="utf-8"))  # noqa: SIM115 - closed in __exit__
            else:
                self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise StreamError(f"{self._path}: cannot be written: {error.strerror or error}") from error
        return self

    def __exit__(self, *args: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def seen(self, event: Event) -> bool:
        if self._file is not None:
            json.dump(event.as_dict(), self._file, default=lambda value: f"<{type(value).__name__}>", separators=(",", ":"))
            self._file.write("\n")
            self._file.flush()
        return True
