"""`spanbus doctor` beside the real servers: it finds nothing where all is well, and what is broken where it is broken."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import yaml
from command_line import Cli
from servers import ROOT, Json, Stack

from spanbus._doctor.findings import CHECKS
from spanbus._doctor.servers import ALERTS, RECORDING_RULES
from spanbus._semantics import names

pytestmark = pytest.mark.stack


def addresses(stack: Stack) -> list[str]:
    return [
        "--jaeger",
        stack.jaeger_url,
        "--prometheus",
        stack.prometheus_url,
        "--alertmanager",
        stack.alertmanager_url,
    ]


def checks(document: Json) -> dict[str, Json]:
    return {str(each["check"]): each for each in cast("list[Json]", document["checks"])}


def states(document: Json) -> dict[str, str]:
    return {check: str(each["state"]) for check, each in checks(document).items()}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_all_is_well_and_nothing_of_it_is_in_the_numbers_of_workflows(
    own_stack: Stack, own_cli: Cli, protocol: str
) -> None:
    port = own_stack.ports["otlp_grpc" if protocol == "grpc" else "otlp_http"]
    env = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "SPANBUS_EVENTS": "both",
    }
    for _ in range(2):  # the second finds the test counter that the first left
        done = own_cli("doctor", "--json", *addresses(own_stack), env=env)
        assert done.code == 0, done.out
        found = states(done.json())
        assert set(found) >= {
            "collector.traces",
            "collector.metrics",
            "collector.logs",
            "jaeger",
            "jaeger.trace",
            "prometheus",
            "prometheus.series",
            "prometheus.rules",
            "prometheus.alerting",
            "alertmanager",
            "clock",
        }
        assert {check for check, state in found.items() if state != "ok"} == {"store", "backend"}
        assert list(found) == [check for check in CHECKS if check in found]
    assert own_stack.value(f"sum({names.DOCTOR_POINTS_PROMETHEUS})") == 6
    assert (
        own_stack.query('count({__name__=~"(spanbus|cicd)_.+", __name__!~"spanbus_doctor_.+"})')
        == []
    )


def test_jaeger_that_is_down_is_named_and_the_rest_is_well(own_stack: Stack, own_cli: Cli) -> None:
    own_stack.jaeger.stop()
    done = own_cli("doctor", "--json", *addresses(own_stack))
    assert done.code == 1
    found = checks(done.json())
    assert [check for check, each in found.items() if each["state"] == "wrong"] == ["jaeger"]
    assert own_stack.jaeger_url in str(found["jaeger"]["message"])
    assert "refused" in str(found["jaeger"]["message"])
    assert "jaeger.trace" not in found


def test_a_collector_that_exports_to_another_jaeger_is_found_out(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.collector.stop()
    own_stack.collector.env["JAEGER_OTLP"] = "127.0.0.1:1"
    own_stack.collector.start()
    done = own_cli("doctor", "--json", "--timeout", "4", *addresses(own_stack))
    assert done.code == 1
    found = checks(done.json())
    assert found["jaeger"]["state"] == "ok"
    assert found["jaeger.trace"]["state"] == "wrong"
    assert "did not come out" in str(found["jaeger.trace"]["message"])


def test_prometheus_without_rules_and_alertmanager_is_told_to_load_them(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.prometheus.stop()
    path = own_stack.folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text())
    config["rule_files"] = []
    del config["alerting"]
    path.write_text(yaml.safe_dump(config))
    own_stack.prometheus.start()
    done = own_cli("doctor", "--json", *addresses(own_stack))
    assert done.code == 1
    found = checks(done.json())
    assert found["prometheus.rules"]["state"] == "wrong"
    assert found["prometheus.rules"]["message"] == "no rule of spanbus is loaded"
    assert "rule_files" in str(found["prometheus.rules"]["todo"])
    assert found["prometheus.alerting"]["state"] == "warning"
    assert found["prometheus.series"]["state"] == "ok"


def test_a_rule_that_is_missing_is_named(own_stack: Stack, own_cli: Cli) -> None:
    own_stack.prometheus.stop()
    path = own_stack.folder / "prometheus.yml"
    config = yaml.safe_load(path.read_text())
    config["rule_files"] = [
        name for name in config["rule_files"] if not name.endswith("/rules.yml")
    ]
    path.write_text(yaml.safe_dump(config))
    own_stack.prometheus.start()
    done = own_cli("doctor", "--json", *addresses(own_stack))
    message = str(checks(done.json())["prometheus.rules"]["message"])
    assert (
        done.code,
        all(name in message for name in RECORDING_RULES),
        any(name in message for name in ALERTS),
    ) == (1, True, False)


def test_a_collector_that_brings_its_counts_elsewhere_is_found_out(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.collector.stop()
    own_stack.collector.env["PROMETHEUS_OTLP"] = "http://127.0.0.1:1/api/v1/otlp"
    own_stack.collector.start()
    done = own_cli("doctor", "--json", "--timeout", "4", *addresses(own_stack))
    assert done.code == 1
    series = checks(done.json())["prometheus.series"]
    assert series["state"] == "wrong"
    assert "did not arrive" in str(series["message"])
    assert own_stack.prometheus_url in str(series["todo"])


def test_a_prometheus_that_takes_no_otlp_is_told_to(own_stack: Stack, own_cli: Cli) -> None:
    own_stack.prometheus.stop()
    own_stack.prometheus.argv.remove("--web.enable-otlp-receiver")
    own_stack.prometheus.start()
    done = own_cli("doctor", "--json", "--timeout", "4", *addresses(own_stack))
    assert done.code == 1
    series = checks(done.json())["prometheus.series"]
    assert (series["state"], series["todo"]) == (
        "wrong",
        "start Prometheus with --web.enable-otlp-receiver",
    )


STRIP = {
    "transform/strip": {
        "metric_statements": [
            {
                "context": "resource",
                "statements": ['keep_keys(resource.attributes, ["service.name"])'],
            }
        ]
    }
}


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (["delta_to_cumulative"], "a series of"),
        (["transform/strip", "delta_to_cumulative"], "does not add up"),
        (["transform/strip"], "did not arrive"),  # Prometheus takes no deltas
    ],
    ids=["process ids kept", "not re-stamped", "not accumulated"],
)
def test_a_collector_that_does_not_add_up_one_shot_processes_is_found_out(
    tmp_path: Path, own_stack: Stack, own_cli: Cli, after: list[str], said: str
) -> None:
    processors = ["filter/runs", *after]
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump(
            {
                "processors": STRIP,
                "service": {
                    "pipelines": {
                        "metrics/runs": {
                            "receivers": ["otlp/counting"],
                            "processors": processors,
                            "exporters": ["otlp_http/prometheus"],
                        }
                    }
                },
            }
        )
    )
    own_stack.collector.stop()
    own_stack.collector.argv.append(f"--config={overlay}")
    own_stack.collector.start()
    done = own_cli("doctor", "--json", "--timeout", "8", *addresses(own_stack))
    assert done.code == 1, done.out
    series = checks(done.json())["prometheus.series"]
    assert series["state"] == "wrong"
    assert said in str(series["message"])
    assert "collector-config.yaml" in str(series["todo"])


def test_a_collector_that_samples_lets_the_test_traces_through(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.collector.stop()
    own_stack.collector.argv.append(f"--config={ROOT / 'deploy/overlays/tail-sampling.yaml'}")
    own_stack.collector.env.update(KEEP_PERCENT="0", STRAGGLERS="1s")
    own_stack.collector.start()
    done = own_cli("doctor", "--json", *addresses(own_stack))
    assert done.code == 0, done.out
    assert states(done.json())["jaeger.trace"] == "ok"


def test_a_preference_that_spoils_the_counters_of_services_is_a_warning(
    stack: Stack, cli: Cli
) -> None:
    done = cli(
        "doctor",
        "--json",
        *addresses(stack),
        env={"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
    )
    assert done.code == 0, done.out
    assert {check for check, state in states(done.json()).items() if state == "warning"} == {
        "temporality"
    }


@pytest.mark.parametrize(
    ("protocol", "port", "said"),
    [
        ("http/protobuf", "otlp_grpc", "speaks gRPC"),
        ("grpc", "otlp_http", "speaks HTTP"),
        ("http/protobuf", "prometheus", "another program"),
    ],
)
def test_the_wrong_port_is_told_by_what_it_speaks(
    stack: Stack, cli: Cli, protocol: str, port: str, said: str
) -> None:
    done = cli(
        "doctor",
        "--json",
        *addresses(stack),
        env={
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{stack.ports[port]}",
        },
    )
    assert done.code == 1
    found = checks(done.json())
    for signal in ("traces", "metrics"):
        assert found[f"collector.{signal}"]["state"] == "wrong"
        assert said in str(found[f"collector.{signal}"]["todo"])
    assert "jaeger.trace" not in found


def test_addresses_that_are_mixed_up_are_told_by_what_answers(stack: Stack, cli: Cli) -> None:
    done = cli(
        "doctor",
        "--json",
        "--jaeger",
        stack.prometheus_url,
        "--prometheus",
        stack.alertmanager_url,
        "--alertmanager",
        stack.jaeger_url,
    )
    assert done.code == 1
    found = checks(done.json())
    for check, name in (
        ("jaeger", "Jaeger"),
        ("prometheus", "Prometheus"),
        ("alertmanager", "Alertmanager"),
    ):
        assert found[check]["state"] == "wrong"
        assert f"is not {name}" in str(found[check]["message"])


def test_the_names_of_the_rules_are_those_of_the_shipped_files() -> None:
    shipped = [
        rule
        for name in ("rules.yml", "alerts.yml")
        for group in yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["groups"]
        for rule in group["rules"]
    ]
    assert {rule["record"] for rule in shipped if "record" in rule} == set(RECORDING_RULES)
    assert {rule["alert"] for rule in shipped if "alert" in rule} == set(ALERTS)
