"""The messages of telemetry while a command runs: each is one line, said once, and never a traceback."""

from __future__ import annotations

import threading
import warnings

from spanbus._exec.say import complain, say
from spanbus._loggers import when_loaded

_LOGGERS = ("spanbus", "opentelemetry")
_REMEMBERED = 100


def one_line_each() -> None:
    """From here on what is logged is said so, and what ends a thread too; warnings of Python, also where they are set
    to be errors, are not shown. May be called twice.
    """
    if threading.excepthook is _end_of_a_thread:
        return
    warnings.simplefilter("ignore")
    threading.excepthook = _end_of_a_thread
    when_loaded(_take_what_is_logged)


def _take_what_is_logged() -> None:
    import logging

    said: set[str] = set()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = record.getMessage()
            except Exception:  # its arguments do not fit
                text = str(record.msg)
            if text not in said and len(said) < _REMEMBERED:
                said.add(text)
                say(text)

    handler = Lines(logging.WARNING)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False


def _end_of_a_thread(what: threading.ExceptHookArgs) -> None:
    name = what.thread.name if what.thread is not None else "a thread"
    complain(f"{name} ended", what.exc_value)
