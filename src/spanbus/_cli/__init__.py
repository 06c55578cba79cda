"""The ``spanbus`` command: one module for each subcommand, loaded lazily."""

from __future__ import annotations

import gc
import os
import sys

_COMPLETE = "_SPANBUS_COMPLETE"


def main() -> None:
    """Entry point. Errors that were raised on purpose are one line on stderr: exit code 2, or 1 for a run that is not there.

    Only help, completion and a line that is wrong load typer, which takes longer than most commands. ``exec`` has a parser of
    its own, because its command waits for it.
    """
    gc.disable()  # what is loaded stays: looking for garbage in it takes a fiftieth of a short command
    words = sys.argv[1:]
    if _COMPLETE in os.environ:
        from spanbus._cli.start import completed

        if completed(os.environ[_COMPLETE], os.environ):
            return
    elif words[:1] == ["exec"]:
        _our_modules_first()
        _interrupt_ends_us(True)  # and a command that was not started yet
        from spanbus._exec.arguments import asks_for_help, parse

        if not asks_for_help(words[1:]):
            from spanbus._exec.wrapper import execute

            execute(parse(words[1:]))
    elif len(words) == 1 and words[0].startswith("-"):
        from spanbus._cli.start import answered

        if answered(words[0]):
            return
    _interrupt_ends_us(True)
    from spanbus._cli.line import call_of
    from spanbus._cli.program import run

    call = call_of(words) if _COMPLETE not in os.environ else None
    if call is None:
        from spanbus._cli.app import app as call
        from spanbus._loggers import load

        load()
    _interrupt_ends_us(False)
    gc.enable()
    run(call)


def _our_modules_first() -> None:
    """Put after ours the modules of ``PYTHONPATH``, which is the command's: a ``typing.py`` in there is not meant here."""
    given = os.environ.get("PYTHONPATH", "")
    if given:
        theirs = {os.path.abspath(folder) for folder in given.split(os.pathsep)}
        sys.path.sort(key=theirs.__contains__)


def _interrupt_ends_us(at_once: bool) -> None:
    """While modules are loaded, an interrupt ends us as it ends other programs, without a traceback; an ignored one stays so."""
    import signal

    by_python = signal.default_int_handler
    was, wanted = (by_python, signal.SIG_DFL) if at_once else (signal.SIG_DFL, by_python)
    if signal.getsignal(signal.SIGINT) == was:
        signal.signal(signal.SIGINT, wanted)
