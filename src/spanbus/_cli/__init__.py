"""The ``spanbus`` command: one module for each subcommand, loaded lazily."""

from __future__ import annotations

import gc
import os
import sys

_COMPLETE = "_SPANBUS_COMPLETE"


def main() -> None:
    """Entry point. Expected errors are one line on stderr, with exit code 2, or 1 for a run that does not exist.

    Typer is only loaded for help, completion and invalid command lines: loading it takes longer than most commands. ``exec``
    has its own parser, so that its command starts without delay.
    """
    gc.disable()  # collecting during the imports would take 2 % of a short command
    words = sys.argv[1:]
    if _COMPLETE in os.environ:
        from spanbus._cli.start import completed

        if completed(os.environ[_COMPLETE], os.environ):
            return
    elif words[:1] == ["exec"]:
        _our_modules_first()
        _set_interrupt_kills(True)
        from spanbus._exec.arguments import asks_for_help, parse

        if not asks_for_help(words[1:]):
            from spanbus._exec.wrapper import execute

            execute(parse(words[1:]))
    elif len(words) == 1 and words[0].startswith("-"):
        from spanbus._cli.start import answered

        if answered(words[0]):
            return
    _set_interrupt_kills(True)
    from spanbus._cli.line import call_of
    from spanbus._cli.program import run

    call = call_of(words) if _COMPLETE not in os.environ else None
    if call is None:
        from spanbus._cli.app import app as call
        from spanbus._loggers import load

        load()
    _set_interrupt_kills(False)
    gc.enable()
    run(call)


def _our_modules_first() -> None:
    """Move ``PYTHONPATH`` to the end of the import path. It is meant for the command, and may contain a ``typing.py``."""
    python_path = os.environ.get("PYTHONPATH", "")
    if python_path:
        folders = {os.path.abspath(folder) for folder in python_path.split(os.pathsep)}
        sys.path.sort(key=folders.__contains__)


def _set_interrupt_kills(kills: bool) -> None:
    """Let SIGINT kill the process without a traceback while modules are loaded. If it is ignored, it stays ignored."""
    import signal

    by_python = signal.default_int_handler
    was, wanted = (by_python, signal.SIG_DFL) if kills else (signal.SIG_DFL, by_python)
    if signal.getsignal(signal.SIGINT) == was:
        signal.signal(signal.SIGINT, wanted)
