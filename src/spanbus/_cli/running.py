"""Run one workflow from the command line: signals, progress, record, delivery."""

from __future__ import annotations

import atexit
import gzip
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Self, Unpack, cast

import anyio
import anyio.abc

from spanbus._runtime import Runtime
from spanbus._sanitize import one_line
from spanbus._workflow.definition import Workflow
from spanbus._workflow.engine import RunOptions, RunResult
from spanbus._workflow.events import Event
from spanbus._workflow.process import Interruption, kill_all, signal_all
from spanbus._workflow.stop import Stop
from spanbus.errors import StreamError

GRACE_S = 10.0
"""Time in seconds for tools to end after the first signal."""
_TERMINATE, _KILL = 2, 3
"""Escalation levels of the second and third Ctrl-C; SIGTERM starts at the second."""


@dataclass(slots=True)
class Outcome:
    """Outcome of a run; ``result`` is None if it was ended by a signal or an error."""

    result: RunResult | None = None
    signal_name: str | None = None

    @property
    def exit_code(self) -> int:
        """Exit status: 128+n for signal n, as in a shell, otherwise 1 if the run did not succeed."""
        if self.signal_name is not None:
            return 128 + signal.Signals[self.signal_name]
        return 0 if self.result is None or self.result.success else 1

    def interruption(self) -> Interruption | None:
        """Return the signal for a command that shares our streams. It receives Ctrl-C from the terminal itself."""
        if self.signal_name is None:
            return None
        number = signal.Signals[self.signal_name]
        return Interruption(number, number == signal.SIGINT and _in_foreground())


def run_workflow(
    runtime: Runtime,
    workflow: Workflow,
    *,
    observers: Sequence[Callable[[Event], object]] = (),
    **options: Unpack[RunOptions],
) -> Outcome:
    """Run to the end, or until SIGINT, SIGTERM or SIGHUP ends it.

    The first SIGINT is passed on to the tools, which get ten seconds; a second one becomes SIGTERM, a third SIGKILL. SIGTERM
    and SIGHUP are passed on, and the next signal is SIGKILL. Phases that run in any case, or after a failure, run then too.
    """
    outcome = Outcome()

    async def main() -> None:
        stop = Stop()
        with ExitStack() as stack:
            for observer in observers:
                token = runtime.bus.subscribe(None, observer)
                stack.callback(runtime.bus.unsubscribe, token)
            async with anyio.create_task_group() as group:
                scope = anyio.CancelScope()
                await group.start(
                    _watch_signals, scope if options.get("inherit") else stop, outcome
                )
                with scope:
                    outcome.result = await runtime.run(
                        workflow,
                        **{
                            **options,
                            "interrupt_reason": lambda: outcome.signal_name or "cancelled",
                            "interruption": outcome.interruption,
                            "stop": stop,
                        },
                    )
                group.cancel_scope.cancel()

    try:
        anyio.run(main)
    except KeyboardInterrupt:
        outcome.signal_name = outcome.signal_name or "SIGINT"
        _leave_at_once_on_signals(outcome.exit_code)
    except BaseExceptionGroup as group:
        raise _single(group) from None
    return outcome


def _leave_at_once_on_signals(exit_code: int) -> None:
    """Make further signals exit at once, while the recorded telemetry is shown and sent.

    During interpreter shutdown the signals are ignored: without a handler they would change the exit code.
    """

    def leave(number: int, frame: object) -> None:
        del number, frame
        os._exit(exit_code)

    with suppress(ValueError):  # not in the main thread
        _handle(leave)
        atexit.register(_handle, signal.SIG_IGN)


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _ending_signals():
        signal.signal(number, handler)


def _ending_signals() -> list[signal.Signals]:
    """Return the signals that end a run; SIGHUP is left out if it is ignored, as under nohup."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        found.append(signal.SIGHUP)
    return found


def _in_foreground() -> bool:
    """Whether our process group is in the foreground of a terminal, so that it receives Ctrl-C."""
    for descriptor in range(3):
        try:
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                return True
        except (OSError, AttributeError):
            continue
    return False


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Unwrap nested exception groups with a single exception."""
    found = group.exceptions
    while len(found) == 1:
        error = found[0]
        if not isinstance(error, BaseExceptionGroup):
            return error
        found = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return group


async def _watch_signals(
    ends: Stop | anyio.CancelScope,
    outcome: Outcome,
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Forward signals to the tools of the run, or cancel a command that shares our streams."""
    try:
        with anyio.open_signal_receiver(*_ending_signals()) as signals:
            task_status.started()
            async with anyio.create_task_group() as group:
                level = 0
                async for which in signals:
                    first = level == 0
                    level = level + 1 if which is signal.SIGINT or not first else _TERMINATE
                    outcome.signal_name = outcome.signal_name or which.name
                    if level > _KILL:
                        os._exit(128 + which)  # spooled records are kept
                    if level == _KILL:
                        kill_all()
                    if isinstance(ends, anyio.CancelScope):
                        ends.cancel()
                    elif first:
                        group.start_soon(_forward, ends, which)
                    elif level == _KILL:
                        _print_message("ending everything now")
                        ends.end_all()
                    else:
                        _print_message("SIGTERM to the tools; once more ends everything")
                        ends.ask(which.name)
                        signal_all(signal.SIGTERM)
    except NotImplementedError:  # an event loop without signal handlers: KeyboardInterrupt does it
        task_status.started()
    finally:
        if outcome.signal_name is not None:
            _leave_at_once_on_signals(outcome.exit_code)


async def _forward(stop: Stop, which: signal.Signals) -> None:
    """Send the signal to the tools, wait the grace period, then end those that still run."""
    twice = "; press Ctrl-C again to end them sooner" if which is signal.SIGINT else ""
    _print_message(f"{which.name}, the tools have {GRACE_S:g} s to end{twice}")
    stop.ask(which.name)
    signal_all(which)
    await anyio.sleep(GRACE_S)
    stop.time_is_up()


def _print_message(text: str) -> None:
    with suppress(OSError, ValueError):
        print(f"spanbus: {one_line(text, 2_000)}", file=sys.stderr, flush=True)


class Recording:
    """Writes every event of the bus as one JSON line; a name that ends in .gz is compressed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        try:
            if str(self._path).endswith(".gz"):
                self._file = cast("IO[str]", gzip.open(self._path, "wt", encoding="utf-8"))
            else:
                self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise StreamError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from error
        return self

    def __exit__(self, *args: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def on_event(self, event: Event) -> bool:
        if self._file is not None:
            json.dump(
                event.as_dict(),
                self._file,
                default=lambda value: f"<{type(value).__name__}>",
                separators=(",", ":"),
            )
            self._file.write("\n")
            self._file.flush()
        return True
