"""Loggers that import ``logging`` with the first message, for short commands that usually log nothing.

Importing it takes as long as everything that such a command writes. Code that imports a logging library calls :func:`load`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import logging

DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30

_waiting: list[Callable[[], None]] = []
_named: list[str] = []


def load(name: str = "spanbus") -> logging.Logger:
    """Import ``logging`` and return a logger."""
    import logging

    while _waiting:
        _waiting.pop(0)()
    return logging.getLogger(name)


def when_loaded(prepare: Callable[[], None]) -> None:
    """Call ``prepare`` when ``logging`` is loaded: now, or before the first message."""
    _waiting.append(prepare)
    if "logging" in sys.modules:
        load()


def make_all() -> None:
    """Create all our loggers now, for programs that iterate over the loggers while other threads run."""
    for name in _named:
        load(name)


class Logger:
    """A lazily created logger."""

    def __init__(self, name: str) -> None:
        self._name = name
        _named.append(name)

    def debug(self, message: str, *values: object, exc_info: bool | BaseException = False) -> None:
        self.log(DEBUG, message, *values, exc_info=exc_info)

    def info(self, message: str, *values: object) -> None:
        self.log(INFO, message, *values)

    def warning(
        self, message: str, *values: object, exc_info: bool | BaseException = False
    ) -> None:
        self.log(WARNING, message, *values, exc_info=exc_info)

    def log(
        self, level: int, message: str, *values: object, exc_info: bool | BaseException = False
    ) -> None:
        """Log a message. Below WARNING it is dropped if ``logging`` is not loaded, because then nobody configured it."""
        if level < WARNING and "logging" not in sys.modules:
            return
        load(self._name).log(level, message, *values, exc_info=exc_info, stacklevel=2)
