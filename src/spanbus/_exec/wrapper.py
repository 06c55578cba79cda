"""``spanbus exec``: start the command, wait for it, record it, exit."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from spanbus._exec import launch
from spanbus._exec.arguments import Arguments
from spanbus._exec.attend import Attendant, Ended
from spanbus._exec.say import say
from spanbus._exec.trace import Trace, disabled, trace_of

if TYPE_CHECKING:
    from spanbus._exec.output import Output
    from spanbus._exec.recording import Recording

LONGEST_S = 60.0
"""Limit in seconds for imports and local writes after the command's end; sending has its own limit.

They take tenths of a second of CPU, but tens of seconds on a machine with a hundred processes per core. When they are cut off
the record is lost.
"""
_FOREVER_S = 1e9
_PRIVATE = 0o077


def execute(arguments: Arguments) -> NoReturn:
    """Run the command and exit with its status; errors of telemetry do not matter."""
    if arguments.file is not None:
        _check_file(arguments.file)
    if arguments.attributes:
        _check_attributes(arguments.attributes)
    trace = None if disabled(os.environ) else _trace(arguments)
    if not hasattr(os, "fork"):
        from spanbus._exec.elsewhere import execute as execute_elsewhere

        leave(execute_elsewhere(arguments, trace))
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
    os.umask(_PRIVATE)  # only for us: the inherited one may make files that even we cannot open
    ended: Ended | None = None
    attendant = Attendant(child, inherited, output.resize if output is not None else None)
    if output is not None:
        output.begin(attendant.wake)
    recording = _recording(arguments, trace, child, attendant, output) if trace else None
    if child.error is None:
        ended = attendant.wait()
        child.release()
        status = ended.status
    else:
        say(f"{arguments.argv[0]}: {launch.reason_text(child.error)}")
        status = launch.status_of(child.error)
    if output is not None:
        output.end()
        attendant.linger(output.busy, _FOREVER_S)
    if recording is not None:
        recording.end(ended)
        if not attendant.linger(recording.busy, LONGEST_S):
            say("left before the record of this command was complete")
    leave(status)


def leave(status: int) -> NoReturn:
    """Exit at once: interpreter shutdown takes as long as its start."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    os._exit(status)


def _trace(arguments: Arguments) -> Trace | None:
    try:
        return trace_of(os.environ, arguments.phase, arguments.program)
    except Exception as error:  # the command must run anyway
        say(f"this command is not recorded: {type(error).__name__}: {error}")
        return None


def _output(arguments: Arguments) -> Output | None:
    """Relay for the command's output if it is to be kept; else None."""
    variable = os.environ.get("SPANBUS_KEEP_OUTPUT", "")
    if not arguments.keep_output and not variable:
        return None
    try:
        from spanbus._exec.output import Output, is_wanted

        return Output.opened() if arguments.keep_output or is_wanted(variable) else None
    except Exception as error:  # the command must run anyway
        say(f"the output of this command is not kept: {type(error).__name__}: {error}")
        return None


def _recording(
    arguments: Arguments,
    trace: Trace,
    child: launch.Child,
    attendant: Attendant,
    output: Output | None,
) -> Recording | None:
    try:
        from spanbus._exec.recording import Recording

        recording = Recording(arguments, trace, child, output)
        recording.begin(attendant.wake)
    except Exception as error:  # the command has started, and would end with us
        say(f"this command is not recorded: {type(error).__name__}: {error}")
        if output is not None:
            output.forget()
        return None
    return recording


def _become(arguments: Arguments, inherited: launch.Inherited, error: OSError) -> NoReturn:
    """Replace this process by the command, unrecorded, because no second process can be created."""
    say(f"there is no second process to be had, so the command is not recorded: {error.strerror}")
    try:
        launch.exec_command([os.fsencode(word) for word in arguments.argv], {}, inherited)
    except OSError as failure:
        say(f"{arguments.argv[0]}: {launch.reason_text(failure)}")
        leave(launch.status_of(failure))
    leave(launch.CANNOT_RUN)


def _check_attributes(given: list[str]) -> None:
    from spanbus._project import attributes_given
    from spanbus.errors import InputError

    try:
        attributes_given(given)
    except InputError as error:
        say(str(error))
        leave(2)


def _check_file(file: str) -> None:
    """Exit with 2 for an unreadable ``--file`` before anything runs."""
    from pathlib import Path

    from spanbus._settings import check_file
    from spanbus.errors import SettingsError

    try:
        check_file(Path(file))
    except SettingsError as error:
        say(str(error))
        leave(2)
