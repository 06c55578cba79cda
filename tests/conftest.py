"""Async tests run on asyncio and on trio; property tests measure no machine."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# A first run makes hypothesis' tables of characters, and a machine may be busy: neither is a failure of what is tested.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
