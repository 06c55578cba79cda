"""Containers for the tests; each file starts what it looks at."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli
from containers import HOST_PORTS, Composition, Engine, Up, missing, taken


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as one:
        yield one


@pytest.fixture(scope="session")
def up(engine: Engine) -> Up:
    @contextmanager
    def start(
        name: str, files: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> Generator[Composition]:
        busy = [port for port in HOST_PORTS if taken(port)]
        if busy:
            missing(f"docker-compose.yml publishes ports that something else has here: {busy}")
        one = Composition(engine, name, files, env)
        try:
            done = one.up()
            assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{one.logs()}"
            yield one
        finally:
            one.down()

    return start


@pytest.fixture(scope="module")
def composition(up: Up) -> Generator[Composition]:
    """docker-compose.yml as it is, for all tests of one file."""
    with up("spanbus-test") as one:
        yield one


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A user on the host who has said nothing but where the collector is."""
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    return Cli(
        tmp_path,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "SPANBUS_EXIT_TIMEOUT_S": "5"},
    )
