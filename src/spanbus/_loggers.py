"""Loggers of ``logging`` for the way of a short command, which has nothing to log: it is loaded with the first message.

It takes as long to load as everything that such a command writes. What loads libraries that log says so by :func:`load`.
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
    """The logger itself."""
    import logging

    while _waiting:
        _waiting.pop(0)()
    return logging.getLogger(name)


def when_loaded(prepare: Callable[[], None]) -> None:
    """Call ``prepare`` before the first message, which is at once where ``logging`` is loaded."""
    _waiting.append(prepare)
    if "logging" in sys.modules:
        load()


def make_all() -> None:
    """Make the loggers of all modules that are loaded, for programs that walk over them while other threads run."""
    for name in _named:
        load(name)


class Logger:
    """A logger by its name."""

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
        """As ``logging`` has it. What is below a warning is of interest to nobody who has not loaded it."""
        if level < WARNING and "logging" not in sys.modules:
            return
        load(self._name).log(level, message, *values, exc_info=exc_info, stacklevel=2)
