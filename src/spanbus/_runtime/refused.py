"""The environment without variables that were refused: the SDK reads it, and raises, when it is imported."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator
from contextlib import contextmanager


@contextmanager
def without(names: Collection[str]) -> Generator[None]:
    """While this is entered these variables are not in the environment."""
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)
