"""Log messages while a command runs: one line each on stderr, without repetition or traceback."""

from __future__ import annotations

import threading
import warnings

from spanbus._exec.stderr import print_line, report_error
from spanbus._loggers import when_loaded

_LOGGERS = ("spanbus", "opentelemetry")
_REMEMBERED = 100


def log_to_stderr() -> None:
    """Write log messages and uncaught exceptions of threads to stderr as single lines.

    Python warnings are ignored, even if they are configured as errors. May be called twice.
    """
    if threading.excepthook is _thread_failed:
        return
    warnings.simplefilter("ignore")
    threading.excepthook = _thread_failed
    when_loaded(_add_handlers)


def _add_handlers() -> None:
    import logging

    seen: set[str] = set()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                text = record.getMessage()
            except Exception:  # the arguments do not match the format
                text = str(record.msg)
            if text not in seen and len(seen) < _REMEMBERED:
                seen.add(text)
                print_line(text)

    handler = Lines(logging.WARNING)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread is not None else "a thread"
    report_error(f"{name} ended", failure.exc_value)
