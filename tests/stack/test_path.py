"""From `spanbus run` to Jaeger, Prometheus and a person behind Alertmanager, through the real servers."""

from __future__ import annotations

import base64
import json
import random
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from typing import cast

import pytest
from command_line import Cli
from many import many
from servers import Json, Stack, eventually, get

from spanbus._semantics import names

pytestmark = pytest.mark.stack


def flat(resource_spans: list[Json]) -> dict[str, Json]:
    """Spans by id, reduced to what was said of them."""
    found: dict[str, Json] = {}
    for group in resource_spans:
        for scope in cast("list[Json]", group["scopeSpans"]):
            for span in cast("list[Json]", scope["spans"]):
                found[str(span["spanId"])] = {
                    "trace": span["traceId"],
                    "parent": span.get("parentSpanId") or "",
                    "name": span["name"],
                    "kind": span.get("kind"),
                    "start": str(span["startTimeUnixNano"]),
                    "end": str(span["endTimeUnixNano"]),
                    "attributes": attributes(span),
                    "status": {
                        key: value
                        for key, value in cast("Json", span.get("status") or {}).items()
                        if value
                    },
                    "events": sorted(  # Jaeger gives them in an order of its own
                        (
                            (str(event["name"]), str(event["timeUnixNano"]), attributes(event))
                            for event in cast("list[Json]", span.get("events") or [])
                        ),
                        key=lambda event: (event[1], event[0], str(event[2])),
                    ),
                }
    return found


def attributes(holder: Json) -> dict[str, str]:
    return {
        str(pair["key"]): json.dumps(as_badger_has_it(cast("Json", pair["value"])), sort_keys=True)
        for pair in cast("list[Json]", holder.get("attributes") or [])
    }


def as_badger_has_it(value: Json) -> Json:
    """A list is the JSON text of its values."""
    array = cast("Json | None", value.get("arrayValue"))
    if array is None:
        return value
    values = [next(iter(each.values())) for each in cast("list[Json]", array.get("values") or [])]
    return {"stringValue": json.dumps(values, separators=(",", ":"), ensure_ascii=False)}


def test_a_trace_in_jaeger_is_what_was_sent_and_prometheus_has_its_numbers(
    stack: Stack, cli: Cli
) -> None:
    done = cli("run", "--json")
    [run] = cast("list[Json]", done.json()["runs"])
    trace_id = str(run["trace_id"])
    sent = flat(cast("list[Json]", cli("show", "--otlp").json()["resourceSpans"]))
    stored = cast(
        "dict[str, Json]",
        eventually(
            lambda: (found := flat(stack.trace(trace_id))) and len(found) == len(sent) and found
        ),
    )
    for span_id, span in sent.items():
        there = stored[span_id]
        changed = {
            key: (value, cast("Json", span["attributes"]).get(key))
            for key, value in cast("Json", there["attributes"]).items()
            if cast("Json", span["attributes"]).get(key) != value
        }
        assert changed == {}, span["name"]
        assert there == span
    assert set(stored) == set(sent)
    labels = 'cicd_pipeline_name="standard",cicd_pipeline_task_name="fast_hooks"'
    eventually(lambda: (stack.value(f"spanbus_phase_failures_total{{{labels}}}") or 0) >= 1)
    catalogue = {metric.prometheus for metric in names.METRICS} | {
        names.DOCTOR_POINTS_PROMETHEUS
    }  # of a doctor who looked at the same stack before
    there = {
        str(name).removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name in cast(
            "list[str]",
            cast("Json", get(f"{stack.prometheus_url}/api/v1/label/__name__/values"))["data"],
        )
        if str(name).startswith(("spanbus_", "cicd_"))
    }
    assert there <= catalogue
    assert {
        "spanbus_phase_duration_seconds",
        "spanbus_phase_failures_total",
        "spanbus_phase_retries_total",
        "cicd_pipeline_run_duration_seconds",
    } <= there
    assert (stack.value(f'spanbus_phase_duration_seconds_bucket{{{labels},le="+Inf"}}') or 0) >= 1
    begin = time.time() - 600
    url = f"{stack.prometheus_url}/api/v1/query_exemplars?query=spanbus_phase_duration_seconds_bucket&start={begin}&end={time.time() + 60}"

    def exemplars() -> set[str]:
        document = cast("Json", get(url) or {})
        return {
            each["labels"]["trace_id"]  # pyright: ignore[reportIndexIssue]
            for series in cast("list[Json]", document.get("data") or [])
            for each in cast("list[Json]", series["exemplars"])
        }  # type: ignore[index, misc]

    eventually(lambda: trace_id in exemplars())


def test_37_processes_with_one_failure_each_count_37_and_are_told_and_resolved(
    stack: Stack, cli: Cli
) -> None:
    many(cli, 37, "burst")
    cli("flush")
    eventually(
        lambda: stack.value('spanbus_phase_failures_total{cicd_pipeline_name="burst"}') == 37
    )
    eventually(lambda: stack.value('spanbus:phase_failures:15m{cicd_pipeline_name="burst"}') == 37)
    [alert] = (
        stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name="burst")[:1]
        or cast(
            "list[Json]",
            eventually(
                lambda: stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name="burst")
            ),
        )[:1]
    )
    annotations = cast("dict[str, str]", alert["annotations"])
    assert annotations["runbook"]
    query = urllib.parse.urlsplit(annotations["trace"])  # finds the failed runs in this Jaeger
    found = cast("Json", get(f"{stack.jaeger_url}/api/traces?{query.query}"))
    assert len(cast("list[Json]", found["data"])) == 20
    assert stack.alerts()["WorkflowPhaseFailed"] == "firing"
    assert stack.webhook.named("WorkflowPhaseFailed", cicd_pipeline_name="burst") == []
    many(cli, 1, "burst", fails=False)
    eventually(
        lambda: stack.webhook.named("WorkflowPhaseFailing", "resolved", cicd_pipeline_name="burst"),
        60,
    )


def test_two_services_keep_their_own_series_beside_runs(stack: Stack, cli: Cli) -> None:
    many(cli, 20, "mixed")
    service = """
import sys
from spanbus._runtime import Runtime
with Runtime(lifetime="service") as runtime:
    for number in range(5):
        run = f"{sys.argv[1]}-{number}"
        runtime.handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": run, "workflow": "mixed"}})
        runtime.handle.feed({"event_type": "workflow.quality.started", "payload": {"workflow_id": run, "step_id": "check", "phase": "check"}})
        runtime.handle.feed({"event_type": "workflow.failed", "payload": {"workflow_id": run, "step_id": "check", "phase": "check"}})
        runtime.handle.feed({"event_type": "workflow.failed", "payload": {"workflow_id": run}})
"""
    for name in ("one", "two"):
        env = {
            "OTEL_SERVICE_NAME": "payments",
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={name}",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        done = subprocess.run(
            [sys.executable, "-c", service, name],
            env=cli.environment(env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    cli("flush")

    def series() -> list[float]:
        return sorted(
            value
            for labels, value in stack.query(
                'spanbus_phase_failures_total{cicd_pipeline_task_name="check"}'
            )
            if labels["cicd_pipeline_name"].startswith("mixed") or labels["job"] == "payments"
        )

    eventually(lambda: series() == [5, 5, 20])


def test_the_collector_restarts_in_the_middle(own_stack: Stack, own_cli: Cli) -> None:
    many(own_cli, 10, "middle")
    own_stack.collector.stop()  # at once: what was acknowledged may be on its way still
    own_cli.env["SPANBUS_EXIT_TIMEOUT_S"] = "0.25"
    many(own_cli, 12, "middle")  # nobody takes it: it waits in the spool
    own_stack.collector.start()
    own_cli.env["SPANBUS_EXIT_TIMEOUT_S"] = "5"
    many(own_cli, 15, "middle")
    assert own_cli("flush").code == 0
    rule = 'spanbus:phase_failures:15m{cicd_pipeline_name="middle"}'
    eventually(lambda: own_stack.value(rule) == 37)
    eventually(lambda: own_stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name="middle"))
    own_stack.collector.kill()
    own_stack.collector.start()
    assert own_stack.value(rule) == 37
    assert own_stack.alerts()["WorkflowPhaseFailing"] == "firing"
    assert own_stack.webhook.named("WorkflowPhaseFailing", "resolved") == []
    assert len(own_stack.webhook.named("WorkflowPhaseFailing")) == 1


def test_one_failure_before_a_restart_and_one_after_it_are_two(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.collector.env["COUNT_EVERY"] = "5s"  # the first is in the queue when it stops
    own_stack.collector.stop()
    own_stack.collector.start()
    for blow in (own_stack.collector.stop, own_stack.collector.kill):
        many(own_cli, 1, "once")
        blow()
        own_stack.collector.start()
    eventually(
        lambda: own_stack.value('spanbus:phase_failures:15m{cicd_pipeline_name="once"}') == 2
    )


def test_projects_environments_versions_and_branches(own_stack: Stack, own_cli: Cli) -> None:
    """Processes that differ only in what is no label are one series; what is a label parts them."""
    own_stack.collector.stop()
    own_stack.collector.env["COUNT_BRANCHES"] = "yes"
    own_stack.collector.start()
    environments = ["prod", "staging", "prod", "staging", "prod"]
    for number, environment in enumerate(environments):
        branch = "main" if number < 4 else "other"
        own_cli.env["OTEL_SERVICE_NAME"] = "two" if number == 3 else "one"
        own_cli.env["OTEL_RESOURCE_ATTRIBUTES"] = (
            f"deployment.environment.name={environment},service.version={number},vcs.ref.head.name={branch}"
        )
        many(own_cli, 2, "parted")

    def found() -> dict[tuple[str, str, str], float]:
        return {
            (
                labels["job"],
                labels["deployment_environment_name"],
                labels["vcs_ref_head_name"],
            ): value
            for labels, value in own_stack.query(
                'spanbus:phase_failures:15m{cicd_pipeline_name="parted"}'
            )
        }

    eventually(
        lambda: (
            found()
            == {
                ("one", "prod", "main"): 4,
                ("one", "staging", "main"): 2,
                ("two", "staging", "main"): 2,
                ("one", "prod", "other"): 2,
            }
        )
    )
    for project, runs in (("one", 8), ("two", 2)):  # apart in Jaeger, and in what people are told
        url = f"{own_stack.jaeger_url}/api/traces?service={project}&limit=50&lookback=1h"
        eventually(
            lambda url=url, runs=runs: (
                len(cast("list[Json]", cast("Json", get(url) or {}).get("data") or [])) == runs
            )
        )
        eventually(
            lambda project=project: own_stack.webhook.named(
                "WorkflowPhaseFailing", job=project, cicd_pipeline_name="parted"
            )
        )


def one_failure(environment: str, version: str, schema: str) -> Json:
    """What a process with one failed phase sends, as a library of that version and schema writes it."""

    def pairs(**values: str) -> list[Json]:
        return [
            {"key": key.replace("__", "."), "value": {"stringValue": value}}
            for key, value in values.items()
        ]

    now = time.time_ns()
    point: Json = {
        "startTimeUnixNano": str(now - 10**9),
        "timeUnixNano": str(now),
        "attributes": pairs(cicd__pipeline__name="varied", cicd__pipeline__task__name="p"),
    }
    delta = {"aggregationTemporality": 1}
    failures = {**delta, "isMonotonic": True, "dataPoints": [{**point, "asInt": "1"}]}
    took = {"count": "1", "sum": 0.5, "bucketCounts": ["1", "0"], "explicitBounds": [1.0]}
    durations = {**delta, "dataPoints": [{**point, **took}]}
    resource = pairs(
        service__name="varied",
        service__version=version,
        service__instance__id=f"{random.getrandbits(64):x}",
        deployment__environment__name=environment,
        spanbus__lifetime="run",
    )
    return {
        "resource": {"attributes": resource},
        "schemaUrl": f"https://opentelemetry.io/schemas/{schema}",
        "scopeMetrics": [
            {
                "scope": {"name": "spanbus", "version": version},
                "schemaUrl": f"https://opentelemetry.io/schemas/{schema}",
                "metrics": [
                    {"name": "spanbus.phase.failures", "unit": "{failure}", "sum": failures},
                    {"name": "spanbus.phase.duration", "unit": "s", "histogram": durations},
                ],
            }
        ],
    }


@pytest.mark.parametrize("at_once", [False, True], ids=["one after another", "at once"])
def test_processes_of_other_versions_and_schemas_are_one_series_for_each_environment(
    stack: Stack, at_once: bool
) -> None:
    """3 of prod and 2 of staging are 5, as in a rolling upgrade; batch by batch and in one batch."""
    workflow = f"varied {at_once}"
    sent = [
        one_failure("prod", "0.1.0", "1.43.0"),
        one_failure("staging", "0.1.0", "1.44.0"),
        one_failure("prod", "0.2.0", "1.44.0"),
        one_failure("prod", "0.2.0", "1.43.0"),
        one_failure("staging", "0.2.0", "1.43.0"),
    ]

    def counted(metric: str) -> list[tuple[str, float]]:
        return sorted(
            (labels["deployment_environment_name"], value)
            for labels, value in stack.query(f'{metric}{{cicd_pipeline_name="{workflow}"}}')
        )

    total = 0
    for part in [sent] if at_once else [[each] for each in sent]:
        body = json.dumps({"resourceMetrics": part}).replace('"varied"', f'"{workflow}"')
        request = urllib.request.Request(
            f"{stack.otlp}/v1/metrics", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        total += len(part)
        eventually(
            lambda total=total: (
                sum(value for _, value in counted("spanbus_phase_failures_total")) == total
            )
        )
    for metric in (
        "spanbus_phase_failures_total",
        "spanbus_phase_duration_seconds_count",
        "spanbus:phase_failures:15m",
    ):
        eventually(lambda metric=metric: counted(metric) == [("prod", 3), ("staging", 2)])


def test_jaeger_down_and_the_collector_killed_lose_no_trace(own_stack: Stack, own_cli: Cli) -> None:
    own_stack.jaeger.stop()
    for _ in range(5):
        own_cli("run", "-q")
    runs = [run["trace_id"] for run in json.loads(own_cli("runs", "--json").out)]
    own_stack.collector.kill()
    own_stack.jaeger.start()
    own_stack.collector.start()
    eventually(lambda: all(own_stack.trace(trace_id) for trace_id in runs), 60)


def test_prometheus_down_and_the_collector_killed_lose_no_failure(
    own_stack: Stack, own_cli: Cli
) -> None:
    own_stack.prometheus.stop()
    many(own_cli, 6, "unseen")
    own_stack.collector.kill()
    own_stack.collector.start()
    many(own_cli, 3, "unseen")
    own_stack.collector.stop()
    own_stack.prometheus.start()
    own_stack.collector.start()
    rule = 'spanbus:phase_failures:15m{cicd_pipeline_name="unseen"}'
    eventually(lambda: own_stack.value(rule) == 9, 60)


def test_a_secret_of_somebody_elses_client_is_in_none_of_them(stack: Stack, cli: Cli) -> None:
    """The collector's own net: the client here takes nothing out."""
    secret = "gh" + "p_" + "a1B2" * 9
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.leak]\nphases = [ {{ name = "p", run = ["sh", "-c", "echo token {secret}; exit 1"] }} ]\n'
    )
    done = cli("run", "leak", "--json", env={"SPANBUS_REDACT": "off"})
    [run] = cast("list[Json]", done.json()["runs"])
    assert secret in json.dumps(cli("show", "--otlp").json())
    found = eventually(lambda: stack.trace(str(run["trace_id"])))
    assert secret not in json.dumps(found)
    assert secret not in stack.collector.log()
    assert secret not in json.dumps(
        get(f"{stack.prometheus_url}/api/v1/series?match[]=%7B__name__%3D~%22spanbus.%2B%22%7D")
    )


def test_what_a_span_says_anywhere_passes_the_collectors_net(stack: Stack) -> None:
    """Names, messages, lists, maps, bytes, links, states, keys, the resource and the scope, each with a secret of its own."""
    secrets: list[str] = []
    binary: list[str] = []
    plain_bytes = base64.b64encode(b"\x89PNG\r\n of an ordinary picture").decode()

    def text(about: str) -> dict[str, str]:
        secrets.append(f"gh{'p'}_{len(secrets):02}" + "a1B2" * 9)
        return {"stringValue": f"{about}\n{secrets[-1]} of somebody"}

    def pair(key: str, value: Json) -> Json:
        return {"key": key, "value": value}

    def listed(about: str) -> Json:
        return {"arrayValue": {"values": [{"stringValue": "curl"}, text(about)]}}

    def mapped(about: str) -> Json:
        return {"kvlistValue": {"values": [pair("inner", listed(about))]}}

    def packed(about: str) -> dict[str, str]:
        """As bytes, in whichever place of a group of three the secret begins."""
        raw = (about + "\0" * (len(secrets) % 3) + text(about)["stringValue"]).encode()
        binary.append(base64.b64encode(raw).decode())
        return {"bytesValue": binary[-1]}

    def holder(about: str) -> list[Json]:
        text(about)
        return [
            pair("a.text", dict(text(about))),
            pair("a.list", listed(about)),
            pair("a.map", mapped(about)),
            *(pair(f"a.bytes{at}", dict(packed(about))) for at in range(3)),
            pair("a.bytes.list", {"arrayValue": {"values": [{"stringValue": "x"}, packed(about)]}}),
            pair("a.bytes.map", {"kvlistValue": {"values": [pair("k", dict(packed(about)))]}}),
            pair("a.bytes.plain", {"bytesValue": plain_bytes}),
            pair(f"a.{secrets[-1]}", {"stringValue": "in the key"}),
        ]

    key = "MIIEowIBAAKCAQEA" * 4
    kind = "RSA PRIVATE KEY"
    pem = f"-----BEGIN {kind}-----\n{key}\n-----END {kind}-----"
    now, trace_id = time.time_ns(), f"{random.getrandbits(128):032x}"
    plain = "RUN task-with-a-rather-long-name-of-its-own"

    def span(name: str, message: str, event: str) -> Json:
        return {
            "traceId": trace_id,
            "spanId": f"{random.getrandbits(64):016x}",
            "name": name,
            "startTimeUnixNano": str(now),
            "endTimeUnixNano": str(now + 1_000),
            "attributes": [*holder("attribute"), pair("a.key", {"stringValue": pem})],
            "status": {"code": 2, "message": message},
            "traceState": f"vendor={text('state')['stringValue'].split()[1]}",
            "links": [
                {
                    "traceId": f"{random.getrandbits(128):032x}",
                    "spanId": f"{random.getrandbits(64):016x}",
                    "traceState": f"vendor={text('state')['stringValue'].split()[1]}",
                    "attributes": holder("link"),
                }
            ],
            "events": [
                {"name": event, "timeUnixNano": str(now + 1), "attributes": holder("event")}
            ],
        }

    spans = [
        span(*(text(about)["stringValue"] for about in ("name", "message", "event"))),
        span(plain, f"{plain} failed", f"{plain} ended"),
        span("silent", "", "event"),
    ]
    body: Json = {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [
                        pair("service.name", {"stringValue": "somebody"}),
                        *holder("resource"),
                    ]
                },
                "scopeSpans": [
                    {
                        "scope": {
                            "name": text("scope")["stringValue"],
                            "version": text("version")["stringValue"],
                            "attributes": holder("scope"),
                        },
                        "spans": spans,
                    }
                ],
            }
        ]
    }
    request = urllib.request.Request(
        f"{stack.otlp}/v1/traces",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    stored = cast(
        "dict[str, Json]",
        eventually(
            lambda: (found := flat(stack.trace(trace_id))) and len(found) == len(spans) and found
        ),
    )
    everything = json.dumps(stack.trace(trace_id))
    assert [secret for secret in secrets if secret in everything] == []
    assert [each for each in binary if each in everything] == []
    assert plain_bytes in everything and "vendor=****" in everything and '"links"' in everything
    assert "scope\\n**** of somebody" in everything and "version\\n**** of somebody" in everything
    assert key not in everything
    assert "a.map" in everything and "****" in everything
    assert "spanbus.redaction" not in everything
    leaky, named, silent = (stored[str(each["spanId"])] for each in spans)
    assert leaky["name"] == "name\n**** of somebody"
    assert cast("Json", leaky["status"])["message"] == "message\n**** of somebody"
    assert named["name"] == plain
    assert cast("Json", named["status"])["message"] == f"{plain} failed"
    assert "message" not in cast("Json", silent["status"])
    assert [cast("list[list[object]]", each["events"])[0][0] for each in (leaky, named)] == [
        "event\n**** of somebody",
        f"{plain} ended",
    ]


def test_200_runs_8_at_a_time_are_200_traces_and_exact_counts(stack: Stack, cli: Cli) -> None:
    many(cli, 200, "volume", fails=False)
    cli("flush")
    runs = json.loads(cli("runs", "--json", "-w", "volume", "-n", "500").out)
    assert len({run["trace_id"] for run in runs}) == 200
    eventually(
        lambda: (
            sum(
                value
                for _, value in stack.query(
                    'spanbus_phase_duration_seconds_count{cicd_pipeline_name="volume"}'
                )
            )
            == 200
        )
    )
    eventually(lambda: all(stack.trace(run["trace_id"]) for run in runs), 60)
