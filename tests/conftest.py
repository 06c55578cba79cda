"""Async tests run on asyncio and trio; property tests have no deadline."""

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
"""Tests that run in the environments of their libraries: ``make test-adapters``."""

# The programs of the tests are not jobs of the CI system that runs the tests. A browser or server that is missing is
# a failure there.
if os.environ.get("CI", "").lower() == "true":
    os.environ["TESTS_IN_CI"] = "true"
for _variable in VARIABLES:
    os.environ.pop(_variable, None)

# The parent of the tests may ignore signals (nohup, a background job), and programs would inherit that.
for _signal, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGTERM", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_DFL),
    ("SIGQUIT", signal.SIG_DFL),
    ("SIGCHLD", signal.SIG_DFL),
):
    if hasattr(signal, _signal) and signal.getsignal(getattr(signal, _signal)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _signal), _handler)

# A first run builds hypothesis' tables of characters, and a machine may be busy: neither is a failure.
settings.register_profile(
    "any-machine",
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("any-machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One and a half workers for each processor, because tests often wait for processes and sockets."""
    return (os.cpu_count() or 2) * 3 // 2


def pytest_collection_finish() -> None:
    """Freeze the collected tests, so that the garbage collector does not traverse them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["spool", "sdk"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Both values of SPANBUS_DELIVERY, for tests that do not depend on durability."""
    return str(request.param)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def by_each_delivery(cli: Cli, delivery: str) -> None:
    """The command, with delivery by the spool, then by the SDK."""
    cli.env["SPANBUS_DELIVERY"] = delivery


@pytest.fixture
def project(cli: Cli) -> Cli:
    """A folder with the workflow ``standard``: one phase fails, one is skipped, one is tried twice."""
    (cli.folder / "spanbus.toml").write_text(WORKFLOW)
    return cli
