"""The ``spanbus`` command: one module for each subcommand, loaded lazily."""

from __future__ import annotations

import gc
import os
import sys

_COMPLETE = "_SPANBUS_COMPLETE"


def main() -> None:
    """Entry point. A :class:`~spanbus.errors.SpanbusError` is one line on stderr: exit code 2, or 1 for a missing run.

    Only help, completion and a wrong command line import typer, which takes longer than most commands. ``exec`` has its own
    parser, because its command waits for it.
    """
    gc.disable()  # imports make no garbage; collecting takes a fiftieth of a short command
    words = sys.argv[1:]
    if _COMPLETE in os.environ:
        from spanbus._cli.start import completed

        if completed(os.environ[_COMPLETE], os.environ):
            return
    elif words[:1] == ["exec"]:
        _import_our_modules_first()
        _let_interrupts_end_us(True)  # also before the command is started
        from spanbus._exec.arguments import asks_for_help, parse

        if not asks_for_help(words[1:]):
            from spanbus._exec.wrapper import execute

            execute(parse(words[1:]))
    elif len(words) == 1 and words[0].startswith("-"):
        from spanbus._cli.start import answered

        if answered(words[0]):
            return
    _let_interrupts_end_us(True)
    from spanbus._cli.line import call_of
    from spanbus._cli.program import run

    call = call_of(words) if _COMPLETE not in os.environ else None
    if call is None:
        from spanbus._cli.app import app as call
        from spanbus._loggers import load

        load()
    _let_interrupts_end_us(False)
    gc.enable()
    run(call)


def _import_our_modules_first() -> None:
    """Move the folders of ``PYTHONPATH`` to the end: they are for the command, and may hold a ``typing.py``."""
    given = os.environ.get("PYTHONPATH", "")
    if given:
        of_command = {os.path.abspath(folder) for folder in given.split(os.pathsep)}
        sys.path.sort(key=of_command.__contains__)


def _let_interrupts_end_us(at_once: bool) -> None:
    """Let SIGINT end us without a traceback during imports, then restore Python's handler; an ignored SIGINT stays ignored."""
    import signal

    by_python = signal.default_int_handler
    was, wanted = (by_python, signal.SIG_DFL) if at_once else (signal.SIG_DFL, by_python)
    if signal.getsignal(signal.SIGINT) == was:
        signal.signal(signal.SIGINT, wanted)
