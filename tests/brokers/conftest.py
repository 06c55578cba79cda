"""Brokers and workers that the tests share; see :mod:`brokers`."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from brokers import Nats, RabbitMQ, Redis, Worker, library
from observing import SMALL, Observing, Start

from spanbus.integrations import nats_stream
from spanbus.testing import Receiver

FOLDER = Path(__file__).parent
LEFT_OPEN = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
"""Celery's clients leave connections of threads that have ended to the garbage collector, which comes when it comes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # those of every folder
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.brokers)
            if item.path.name.startswith("test_celery"):
                item.add_marker(pytest.mark.filterwarnings(LEFT_OPEN))


def pytest_sessionfinish() -> None:
    with warnings.catch_warnings():  # the same, after the last test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[Redis]:
    library("redis")
    server = Redis(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Generator[RabbitMQ]:
    server = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def collector() -> Generator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def nats(tmp_path: Path) -> Generator[Nats]:
    """A server of the test's own, with a small stream."""
    library("nats")
    server = Nats(tmp_path / "nats")
    try:
        server.start()
        nats_stream.set_up(server.url, SMALL)
        yield server
    finally:
        server.kill()


@pytest.fixture
def observe(nats: Nats, collector: Receiver) -> Generator[Start]:
    """Starts observers, and kills those that are still there."""
    started: list[Observing] = []

    def start(folder: Path, *words: str, **env: str) -> Observing:
        started.append(Observing(nats, collector, folder, *words, env=env))
        return started[-1].start()

    try:
        yield start
    finally:
        for each in started:
            each.kill()


@pytest.fixture
def workers() -> Generator[Callable[[Worker], Worker]]:
    """Starts workers, and stops those that are still there."""
    started: list[Worker] = []

    def start(worker: Worker) -> Worker:
        started.append(worker)
        return worker.start()

    try:
        yield start
    finally:
        for worker in started:
            worker.kill()


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "engine"
