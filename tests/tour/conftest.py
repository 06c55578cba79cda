"""Fixtures of every stop of the tour: a collector on a real socket, and a runtime with its own state directory."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

import spanbus
from spanbus.testing import Receiver


@pytest.fixture
def collector() -> Generator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def runtime(collector: Receiver, tmp_path: Path, delivery: str) -> Generator[spanbus.Runtime]:
    """A runtime that exports to ``collector`` over HTTP."""
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path), "SPANBUS_DELIVERY": delivery}
    with spanbus.open_runtime_sync(env=env) as runtime:
        yield runtime
