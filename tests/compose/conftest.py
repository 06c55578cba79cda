"""docker-compose.yml up, once for all that look at it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from command_line import WORKFLOW, Cli
from containers import HOST_PORTS, Composition, Engine, missing, taken


@pytest.fixture(scope="session")
def composition(tmp_path_factory: pytest.TempPathFactory) -> Generator[Composition]:
    busy = [port for port in HOST_PORTS if taken(port)]
    if busy:
        missing(f"docker-compose.yml publishes ports that something else has here: {busy}")
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        one = Composition(engine, "spanbus-test")
        try:
            up = one.up()
            assert up.returncode == 0, f"{up.stdout}{up.stderr}\n{one.logs()}"
            yield one
        finally:
            one.down()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A user on the host who has said nothing but where the collector is."""
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    return Cli(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "SPANBUS_EXIT_TIMEOUT_S": "5"})
