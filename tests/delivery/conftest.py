"""Fixtures: programs with their own state directory, and a collector for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Programs

from spanbus.testing import Receiver


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "state")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
