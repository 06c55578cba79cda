"""`docker compose up`, then `spanbus run`: the shipped file in real containers."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli
from containers import HOST_PORTS, Composition, taken
from servers import Json, eventually, get

pytestmark = pytest.mark.compose

JAEGER, PROMETHEUS, ALERTMANAGER = (
    "http://127.0.0.1:16686",
    "http://127.0.0.1:9090",
    "http://127.0.0.1:9093",
)


def values(expression: str) -> list[float]:
    document = cast(
        "Json", get(f"{PROMETHEUS}/api/v1/query?query={urllib.parse.quote(expression)}") or {}
    )
    return [
        float(each["value"][1])
        for each in cast("Json", document.get("data") or {}).get("result") or []  # pyright: ignore[reportGeneralTypeIssues]
    ]  # type: ignore[index, union-attr, attr-defined]


def run(cli: Cli) -> str:
    """One run; the id of its trace."""
    [found] = cast("list[Json]", cli("run", "--json").json()["runs"])
    return str(found["trace_id"])


def spans(trace_id: str) -> list[str]:
    document = cast("Json", get(f"{JAEGER}/api/v3/traces/{trace_id}") or {})
    return [
        span["name"]
        for group in cast("Json", document.get("result") or {}).get("resourceSpans") or []  # type: ignore[union-attr, attr-defined]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]


def test_all_services_are_up_and_healthy(composition: Composition) -> None:
    states = {
        name: cast("Json", document["State"]) for name, document in composition.inspected().items()
    }
    assert set(states) == set(composition.services)
    for name, state in states.items():
        if name == "volume-owner":
            assert (state["Status"], state["ExitCode"]) == ("exited", 0)
            continue
        assert state["Status"] == "running", name
        if "healthcheck" in composition.services[name]:
            assert cast("Json", state["Health"])["Status"] == "healthy", name
    eventually(lambda: values('up{job="collector"}') == [1])


def test_a_run_on_the_host_is_in_jaeger_and_in_prometheus(
    composition: Composition, cli: Cli
) -> None:
    trace_id = run(cli)
    assert "RUN standard" in cast("list[str]", eventually(lambda: spans(trace_id)))
    eventually(
        lambda: (
            values(
                'spanbus_phase_failures_total{cicd_pipeline_name="standard",cicd_pipeline_task_name="fast_hooks"}'
            )
            >= [1.0]
        )
    )
    eventually(
        lambda: values(
            'count(spanbus_phase_duration_seconds_bucket{cicd_pipeline_name="standard"})'
        )
    )


def test_grpc_is_taken_too(composition: Composition, cli: Cli) -> None:
    cli.env.update(
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317"
    )
    trace_id = run(cli)
    eventually(lambda: spans(trace_id))


def test_a_failed_phase_reaches_alertmanager(composition: Composition, cli: Cli) -> None:
    run(cli)
    eventually(
        lambda: [
            alert
            for alert in cast("list[Json]", get(f"{ALERTMANAGER}/api/v2/alerts") or [])
            if cast("Json", alert["labels"])["alertname"] == "WorkflowPhaseFailed"
        ],
        90,
    )


def test_traces_wait_in_the_queue_while_jaeger_and_the_collector_are_replaced(
    composition: Composition, cli: Cli
) -> None:
    composition.compose("stop", "jaeger")
    trace_id = run(cli)
    eventually(lambda: (values("sum(otelcol_exporter_queue_size)") or [0])[0] >= 1)
    assert composition.compose("rm", "--stop", "--force", "collector").returncode == 0
    up = composition.up()
    assert up.returncode == 0, up.stderr
    eventually(lambda: "RUN standard" in spans(trace_id), 60)


def test_traces_are_kept_when_jaeger_is_replaced(composition: Composition, cli: Cli) -> None:
    trace_id = run(cli)
    eventually(lambda: "RUN standard" in spans(trace_id))
    assert composition.compose("rm", "--stop", "--force", "jaeger").returncode == 0
    up = composition.up()
    assert up.returncode == 0, up.stderr
    eventually(lambda: "RUN standard" in spans(trace_id))


def test_what_was_counted_is_kept_when_prometheus_is_replaced(
    composition: Composition, cli: Cli
) -> None:
    run(cli)
    eventually(
        lambda: values('sum(spanbus_phase_duration_seconds_count{cicd_pipeline_name="standard"})')
    )
    assert composition.compose("rm", "--stop", "--force", "prometheus").returncode == 0
    up = composition.up()
    assert up.returncode == 0, up.stderr
    assert eventually(lambda: values('count(last_over_time(up{job="collector"}[1h] offset 5s))'))
    rule = 'spanbus:phase_failures:15m{cicd_pipeline_name="standard"}'
    before = cast("list[float]", eventually(lambda: values(rule)))
    run(cli)  # the collector waited for it
    eventually(lambda: sum(values(rule)) > sum(before))


def test_the_containers_are_as_tight_as_the_file_says(composition: Composition) -> None:
    inspected = composition.inspected()
    assert set(inspected) >= {"collector", "jaeger", "prometheus", "alertmanager"}
    for name, document in inspected.items():
        host, config = cast("Json", document["HostConfig"]), cast("Json", document["Config"])
        said = composition.services[name]
        assert host["ReadonlyRootfs"] is True, name
        assert config["User"] == said["user"], name
        assert (host["PidsLimit"], host["Memory"]) == (
            said["pids_limit"],
            size(str(said["mem_limit"])),
        ), name
        assert "no-new-privileges" in str(host["SecurityOpt"]), name
        ports = cast(
            "dict[str, list[dict[str, str]] | None]",
            cast("Json", document["NetworkSettings"])["Ports"] or {},
        )
        assert {binding["HostIp"] for bindings in ports.values() for binding in bindings or []} <= {
            "127.0.0.1"
        }, name


def size(text: str) -> int:
    return int(text[:-1]) * {"m": 2**20, "g": 2**30}[text[-1]]


@pytest.mark.parametrize("service", ["jaeger", "prometheus", "alertmanager", "collector"])
def test_a_server_has_no_capability_and_can_write_only_what_is_its_own(
    composition: Composition, service: str
) -> None:
    document = composition.inspected()[service]
    pid = cast("int", cast("Json", document["State"])["Pid"])
    if not os.access(f"/proc/{pid}/ns", os.X_OK) or os.geteuid() != 0:
        pytest.skip("only root on the engine's own machine can look into the process")
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert {
        status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    } == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Uid"].split()[0] == str(composition.services[service]["user"]).split(":")[0]
    kept = {
        line.split()[1]
        for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()
        if "rw" in line.split()[3].split(",")
        and line.split()[2] not in ("tmpfs", "proc", "devpts", "mqueue", "sysfs")
    }
    assert {path for path in kept if not path.startswith("/etc/")} == {
        "jaeger": {"/badger"},
        "prometheus": {"/prometheus"},
        "alertmanager": {"/alertmanager"},
        "collector": {"/var/lib/otelcol/queue"},
    }[service]


def test_nothing_is_published_but_on_the_loopback(composition: Composition) -> None:
    import socket

    own = {
        str(address[4][0])
        for address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    } - {"127.0.0.1", "127.0.1.1"}
    for address in own:
        for port in HOST_PORTS:
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=2):  # noqa: PT011
                pass
    for url in (
        "http://127.0.0.1:13133/",
        "http://127.0.0.1:8888/metrics",
        "http://127.0.0.1:16685/",
    ):
        with pytest.raises((OSError, urllib.error.URLError)):
            urllib.request.urlopen(url, timeout=2)


def test_down_with_volumes_leaves_nothing(composition: Composition) -> None:
    """The last test of this file: it ends what the others looked at."""
    assert composition.left()
    done = composition.down()
    assert done.returncode == 0, done.stderr
    assert composition.left() == []
    assert [port for port in HOST_PORTS if taken(port)] == []
    assert json.dumps(composition.containers(stopped=True)) == "[]"
    assert not os.path.exists(composition.engine.folder / "root/volumes/spanbus-test_queue")
