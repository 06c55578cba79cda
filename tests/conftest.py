"""Settings and fixtures of all tests: async tests run on asyncio and on trio, property tests have no deadline."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli
from hypothesis import HealthCheck, settings
from thorough import examples

from spanbus._delivery.ephemeral import VARIABLES

collect_ignore = ["adapters"]
"""Each adapter is tested in a virtual environment with its library: ``make test-adapters``."""

# Programs that the tests start must not take themselves for jobs of the CI system that runs the tests, so its variables are
# removed. TESTS_IN_CI stays: a missing browser or server fails a test in CI and skips it elsewhere.
if os.environ.get("CI", "").lower() == "true":
    os.environ["TESTS_IN_CI"] = "true"
for _variable in VARIABLES:
    os.environ.pop(_variable, None)

# The parent of pytest may ignore signals (nohup, a background job). Programs that the tests start would inherit that.
for _signal, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGTERM", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_DFL),
    ("SIGQUIT", signal.SIG_DFL),
    ("SIGCHLD", signal.SIG_DFL),
):
    if hasattr(signal, _signal) and signal.getsignal(getattr(signal, _signal)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _signal), _handler)

# Hypothesis builds its character tables on the first run, and a machine may be busy: neither is a failure of a test.
settings.register_profile(
    "any-machine",
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use 1.5 workers per processor: tests spend much of their time waiting for processes and sockets."""
    return (os.cpu_count() or 2) * 3 // 2


def pytest_collection_finish() -> None:
    """Exempt the collected tests from garbage collection: there are thousands, and they live until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["spool", "sdk"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Both values of ``SPANBUS_DELIVERY``. Except for durability, they must behave the same."""
    return str(request.param)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def by_each_delivery(cli: Cli, delivery: str) -> None:
    """Run the test once with delivery by the spool and once with delivery by the SDK."""
    cli.env["SPANBUS_DELIVERY"] = delivery


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A folder with the workflow ``standard``: one phase fails, one is skipped, one is retried once."""
    (cli.folder / "spanbus.toml").write_text(WORKFLOW)
    return cli
