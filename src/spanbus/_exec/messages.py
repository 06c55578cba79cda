"""Messages of telemetry while a command runs: one line each, shown once, never a traceback."""

from __future__ import annotations

import threading
import warnings

from spanbus._exec.say import complain, say
from spanbus._loggers import when_loaded

_LOGGERS = ("spanbus", "opentelemetry")
_REMEMBERED = 100


def show_one_line_messages() -> None:
    """Show log messages and errors of threads as one line each; hide Python's warnings, even if they are set to be errors.

    May be called twice.
    """
    if threading.excepthook is _report_thread_error:
        return
    warnings.simplefilter("ignore")
    threading.excepthook = _report_thread_error
    when_loaded(_show_log_messages)


def _show_log_messages() -> None:
    import logging

    shown: set[str] = set()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = record.getMessage()
            except Exception:  # wrong arguments for the format
                text = str(record.msg)
            if text not in shown and len(shown) < _REMEMBERED:
                shown.add(text)
                say(text)

    handler = Lines(logging.WARNING)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False


def _report_thread_error(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread is not None else "a thread"
    complain(f"{name} ended", what.exc_value)
