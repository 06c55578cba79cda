"""More than one machine: what docs/stack.md says of it, as far as the servers at hand can show it."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest
import yaml
from command_line import WORKFLOW, Cli
from servers import ROOT, Json, Server, Stack, binary, eventually, free_port, get

pytestmark = pytest.mark.stack

GROWTH = ROOT / "deploy" / "growth"


class Agent:
    """A collector on a host of its own, in front of the stack's collector."""

    def __init__(self, folder: Path, gateway: str) -> None:
        folder.mkdir()
        http, health = free_port(), free_port()
        self.url = f"http://127.0.0.1:{http}"
        self.server = Server(
            "agent",
            [binary("otelcol"), f"--config={GROWTH / 'collector-agent.yaml'}"],
            folder,
            f"http://127.0.0.1:{health}/",
            {
                "OTLP_GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
                "OTLP_HTTP_ADDRESS": f"127.0.0.1:{http}",
                "HEALTH_ADDRESS": f"127.0.0.1:{health}",
                "GATEWAY_OTLP": gateway,
                "GATEWAY_INSECURE": "true",
                "QUEUE_DIR": str(folder / "queue"),
            },
        )


@pytest.fixture
def agents(tmp_path: Path, own_stack: Stack) -> Generator[list[Agent]]:
    gateway = f"127.0.0.1:{own_stack.ports['otlp_grpc']}"
    found = [Agent(tmp_path / name, gateway) for name in ("east", "west")]
    for agent in found:
        agent.server.start()
    yield found
    for agent in found:
        agent.server.stop()


def test_counters_of_two_hosts_add_up_at_the_gateway_and_nothing_is_lost_when_gateway_and_agent_go(
    tmp_path: Path, own_stack: Stack, agents: list[Agent]
) -> None:
    runs: list[Cli] = []
    for number, agent in enumerate(agents):
        folder = tmp_path / f"host{number}"
        folder.mkdir()
        (folder / "spanbus.toml").write_text(WORKFLOW)
        runs.append(
            Cli(folder, {"OTEL_EXPORTER_OTLP_ENDPOINT": agent.url, "SPANBUS_EXIT_TIMEOUT_S": "5"})
        )

    def fail_on_both(times: int) -> None:
        for _ in range(times):
            for cli in runs:
                assert (
                    cli("exec", "--workflow", "grown", "--name", "check", "--", "false").code == 1
                )

    def counted() -> float | None:
        return own_stack.value('spanbus:phase_failures:15m{cicd_pipeline_name="grown"}')

    fail_on_both(5)
    eventually(lambda: counted() == 10)
    own_stack.collector.kill()
    fail_on_both(6)  # into the agents' queues
    for cli in runs:
        assert cli("flush").code == 0  # what a slow machine did not take within the exit's limit
    for agent in agents:
        agent.server.kill()
        agent.server.start()
    own_stack.collector.start()
    eventually(lambda: counted() == 22, 180)
    eventually(lambda: len(traces(own_stack)) == 22, 180)


def traces(stack: Stack) -> list[object]:
    found = get(f"{stack.jaeger_url}/api/traces?service=spanbus&limit=1000&lookback=1h")
    return cast("list[object]", cast("Json", found)["data"]) if isinstance(found, dict) else []


@pytest.mark.parametrize(
    ("program", "config"),
    [("otelcol", "collector-agent.yaml"), ("jaeger", "jaeger-clickhouse.yaml")],
)
def test_configurations_are_accepted(program: str, config: str, tmp_path: Path) -> None:
    env = {"QUEUE_DIR": str(tmp_path), "GATEWAY_OTLP": "gateway:4317", "CLICKHOUSE_PASSWORD": "x"}
    done = subprocess.run(
        [binary(program), "validate", f"--config={GROWTH / config}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_remote_write_fits_into_the_shipped_prometheus_configuration(tmp_path: Path) -> None:
    shipped = ROOT / "deploy" / "prometheus"
    whole = yaml.safe_load((shipped / "prometheus.yml").read_text()) | yaml.safe_load(
        (GROWTH / "remote-write.yml").read_text()
    )
    for name in ("rules.yml", "alerts.yml"):
        (tmp_path / name).write_text((shipped / name).read_text())
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(whole))
    done = subprocess.run(
        [binary("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
