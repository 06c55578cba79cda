"""Hiding of refused environment variables: the SDK reads them during its import, and raises for invalid ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator
from contextlib import contextmanager


@contextmanager
def hidden_variables(names: Collection[str]) -> Generator[None]:
    """Remove these variables from ``os.environ`` during the block."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
