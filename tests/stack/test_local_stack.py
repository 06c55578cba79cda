"""`spanbus stack up --local`: the shipped files with binaries, one command, no root, no containers."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli
from servers import Json, binary, eventually, free_port, get

pytestmark = pytest.mark.stack

ADDRESSES = (
    "OTLP_HTTP_ADDRESS",
    "OTLP_GRPC_ADDRESS",
    "JAEGER_QUERY_ADDRESS",
    "JAEGER_QUERY_GRPC_ADDRESS",
    "JAEGER_OTLP_ADDRESS",
    "JAEGER_HEALTH_ADDRESS",
    "PROMETHEUS_ADDRESS",
    "ALERTMANAGER_ADDRESS",
    "OWN_METRICS_ADDRESS",
    "COUNTING_ADDRESS",
    "HEALTH_ADDRESS",
)


@contextmanager
def started(cli: Cli) -> Generator[subprocess.Popen[str]]:
    folder = Path(binary("otelcol")).parent
    for name in ("jaeger", "prometheus", "alertmanager"):
        assert Path(binary(name)).parent == folder
    process = cli.start("stack", "up", "--local", "--bin", str(folder))
    try:
        assert process.stderr is not None
        said = ""
        while "the stack is up" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert f"export OTEL_EXPORTER_OTLP_ENDPOINT=http://{cli.env['OTLP_HTTP_ADDRESS']}" in out
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_one_command_starts_it_and_traces_survive_its_end(tmp_path: Path) -> None:
    cli = Cli(tmp_path, {name: f"127.0.0.1:{free_port()}" for name in ADDRESSES})
    cli.env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{cli.env['OTLP_HTTP_ADDRESS']}",
        "SPANBUS_EXIT_TIMEOUT_S": "5",
        "COUNT_EVERY": "200ms",
    }
    jaeger, prometheus = (
        f"http://{cli.env[name]}" for name in ("JAEGER_QUERY_ADDRESS", "PROMETHEUS_ADDRESS")
    )

    def traces() -> list[object]:
        found = get(f"{jaeger}/api/traces?service=spanbus&lookback=1h")
        return cast("list[object]", found["data"]) if isinstance(found, dict) else []

    def firing() -> set[str]:
        found = cast("Json", get(f"{prometheus}/api/v1/alerts") or {"data": {"alerts": []}})
        alerts = cast("list[dict[str, dict[str, str]]]", cast("Json", found["data"])["alerts"])
        return {alert["labels"]["alertname"] for alert in alerts}

    with started(cli):
        env = {"OTEL_SERVICE_NAME": "spanbus"}
        done = cli("exec", "--workflow", "w", "--name", "check", "--", "false", env=env)
        assert done.code == 1
        eventually(lambda: len(traces()) == 1)
        eventually(lambda: firing() >= {"WorkflowPhaseFailing", "Watchdog"})
        alertmanager = f"http://{cli.env['ALERTMANAGER_ADDRESS']}"
        eventually(lambda: "WorkflowPhaseFailing" in str(get(f"{alertmanager}/api/v2/alerts")))
        told = cast("list[Json]", get(f"{alertmanager}/api/v2/alerts"))
        assert isinstance(told, list)
        [failing] = [
            cast("dict[str, str]", alert["annotations"])
            for alert in told
            if cast("dict[str, str]", alert["labels"])["alertname"] == "WorkflowPhaseFailing"
        ]
        assert failing["trace"].startswith(f"{jaeger}/search?service=spanbus&")
        assert "dashboard" not in failing  # there is no Grafana
        # Jaeger does not trace itself into its own store.
        assert cast("Json", get(f"{jaeger}/api/services"))["data"] == ["spanbus"]
    assert get(f"{jaeger}/api/services") is None
    with started(cli):
        assert len(cast("list[object]", eventually(traces))) == 1


def test_a_server_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    cli = Cli(tmp_path, {name: f"127.0.0.1:{free_port()}" for name in ADDRESSES})
    cli.env["HEALTH_ADDRESS"] = cli.env["OTLP_HTTP_ADDRESS"]  # two want one port
    done = cli("stack", "up", "--local", "--bin", str(Path(binary("otelcol")).parent))
    assert done.code == 1
    assert "spanbus: collector has ended" in done.err
    assert "address already in use" in done.err
