"""``spanbus exec``: start the command, supervise and record it, exit with its status."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from spanbus._exec import launch
from spanbus._exec.arguments import Arguments
from spanbus._exec.stderr import print_line
from spanbus._exec.supervise import CommandExit, Supervisor
from spanbus._exec.trace import Trace, disabled, trace_of

if TYPE_CHECKING:
    from spanbus._exec.output import Output
    from spanbus._exec.recording import Recording

LONGEST_S = 60.0
"""Limit in seconds for loading and writing after the command's end. This is local work of tenths of a second of CPU, but a
machine with a hundred processes for each core takes tens of seconds. If it is cut off, the record is lost. Sending has its
own limit."""
_FOREVER_S = 1e9
_PRIVATE = 0o077


def execute(arguments: Arguments) -> NoReturn:
    """Run the command and exit with its status. Failures of telemetry never prevent it."""
    if arguments.file is not None:
        _check_file(arguments.file)
    if arguments.attributes:
        _check_attributes(arguments.attributes)
    trace = None if disabled(os.environ) else _trace(arguments)
    if not hasattr(os, "fork"):
        from spanbus._exec.without_fork import execute as execute_without_fork

        leave(execute_without_fork(arguments, trace))
    output = _output(arguments) if trace is not None else None
    inherited = launch.Inherited()
    try:
        child = launch.start(
            arguments.argv,
            trace.changes if trace is not None else {},
            inherited,
            output.connect if output is not None else None,
        )
    except OSError as error:  # no process can be created
        _become(arguments, inherited, error)
    launch.keep_standard_descriptors()
    os.umask(_PRIVATE)  # for our files: the inherited umask may be unusable
    ended: CommandExit | None = None
    supervisor = Supervisor(child, inherited, output.resize if output is not None else None)
    if output is not None:
        output.begin(supervisor.wake)
    recording = _recording(arguments, trace, child, supervisor, output) if trace else None
    if child.error is None:
        ended = supervisor.wait()
        child.release()
        status = ended.status
    else:
        print_line(f"{arguments.argv[0]}: {launch.reason_of(child.error)}")
        status = launch.status_of(child.error)
    if output is not None:
        output.end()
        supervisor.wait_while(output.busy, _FOREVER_S)
    if recording is not None:
        recording.end(ended)
        if not supervisor.wait_while(recording.busy, LONGEST_S):
            print_line("left before the record of this command was complete")
    leave(status)


def leave(status: int) -> NoReturn:
    """Exit at once: the interpreter's normal shutdown takes as long as its start."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    os._exit(status)


def _trace(arguments: Arguments) -> Trace | None:
    try:
        return trace_of(os.environ, arguments.phase, arguments.program)
    except Exception as error:  # the command must run in any case
        print_line(f"this command is not recorded: {type(error).__name__}: {error}")
        return None


def _output(arguments: Arguments) -> Output | None:
    """Open channels for the command's output if it is to be kept, otherwise return None."""
    variable = os.environ.get("SPANBUS_KEEP_OUTPUT", "")
    if not arguments.keep_output and not variable:
        return None
    try:
        from spanbus._exec.output import Output, is_wanted

        return Output.opened() if arguments.keep_output or is_wanted(variable) else None
    except Exception as error:  # the command must run in any case
        print_line(f"the output of this command is not kept: {type(error).__name__}: {error}")
        return None


def _recording(
    arguments: Arguments,
    trace: Trace,
    child: launch.Child,
    supervisor: Supervisor,
    output: Output | None,
) -> Recording | None:
    try:
        from spanbus._exec.recording import Recording

        recording = Recording(arguments, trace, child, output)
        recording.begin(supervisor.wake)
    except Exception as error:  # the command has started and must not end with us
        print_line(f"this command is not recorded: {type(error).__name__}: {error}")
        if output is not None:
            output.forget()
        return None
    return recording


def _become(arguments: Arguments, inherited: launch.Inherited, error: OSError) -> NoReturn:
    """Replace this process by the command, unrecorded, because no second process can be created."""
    print_line(
        f"there is no second process to be had, so the command is not recorded: {error.strerror}"
    )
    try:
        launch.become([os.fsencode(word) for word in arguments.argv], {}, inherited)
    except OSError as failure:
        print_line(f"{arguments.argv[0]}: {launch.reason_of(failure)}")
        leave(launch.status_of(failure))
    leave(launch.CANNOT_RUN)


def _check_attributes(given: list[str]) -> None:
    from spanbus._project import attributes_given
    from spanbus.errors import InputError

    try:
        attributes_given(given)
    except InputError as error:
        print_line(str(error))
        leave(2)


def _check_file(file: str) -> None:
    """Exit with status 2 if the settings file cannot be read, before anything runs."""
    from pathlib import Path

    from spanbus._settings import check_file
    from spanbus.errors import SettingsError

    try:
        check_file(Path(file))
    except SettingsError as error:
        print_line(str(error))
        leave(2)
