"""From `spanbus run` to Jaeger, Prometheus and a person behind Alertmanager, through the real servers."""

from __future__ import annotations

import json
import subprocess
import time
from typing import cast

import pytest
from command_line import Cli
from servers import Json, Stack, eventually, get

from spanbus.telemetry import names

pytestmark = pytest.mark.stack


def flat(resource_spans: list[Json]) -> dict[str, Json]:
    """Spans by id, reduced to what was said of them."""
    found: dict[str, Json] = {}
    for group in resource_spans:
        for scope in cast("list[Json]", group["scopeSpans"]):
            for span in cast("list[Json]", scope["spans"]):
                found[str(span["spanId"])] = {
                    "trace": span["traceId"], "parent": span.get("parentSpanId") or "", "name": span["name"],
                    "kind": span.get("kind"), "start": str(span["startTimeUnixNano"]), "end": str(span["endTimeUnixNano"]),
                    "attributes": attributes(span), "status": {key: value for key, value in cast("Json", span.get("status") or {}).items() if value},
                    "events": sorted(  # Jaeger gives them in an order of its own
                        ((str(event["name"]), str(event["timeUnixNano"]), attributes(event)) for event in cast("list[Json]", span.get("events") or [])),
                        key=lambda event: (event[1], event[0], str(event[2])),
                    ),
                }
    return found


def attributes(holder: Json) -> dict[str, str]:
    return {str(pair["key"]): json.dumps(pair["value"], sort_keys=True) for pair in cast("list[Json]", holder.get("attributes") or [])}


def test_a_trace_in_jaeger_is_what_was_sent_and_prometheus_has_its_numbers(stack: Stack, cli: Cli) -> None:
    done = cli("run", "--json")
    [run] = cast("list[Json]", done.json()["runs"])
    trace_id = str(run["trace_id"])
    sent = flat(cast("list[Json]", cli("show", "--otlp").json()["resourceSpans"]))
    stored = cast("dict[str, Json]", eventually(lambda: (found := flat(stack.trace(trace_id))) and len(found) == len(sent) and found))
    for span_id, span in sent.items():
        there = stored[span_id]
        changed = {key: (value, cast("Json", span["attributes"]).get(key)) for key, value in cast("Json", there["attributes"]).items() if cast("Json", span["attributes"]).get(key) != value}
        assert changed == {}, span["name"]
        assert there == span
    assert set(stored) == set(sent)
    labels = 'cicd_pipeline_name="standard",cicd_pipeline_task_name="fast_hooks"'
    eventually(lambda: (stack.value(f"spanbus_phase_failures_total{{{labels}}}") or 0) >= 1)
    catalogue = {metric.prometheus for metric in names.METRICS} | {names.DOCTOR_POINTS_PROMETHEUS}  # of a doctor who looked at the same stack before
    there = {
        str(name).removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name in cast("list[str]", cast("Json", get(f"{stack.prometheus_url}/api/v1/label/__name__/values"))["data"])
        if str(name).startswith(("spanbus_", "cicd_"))
    }
    assert there <= catalogue
    assert {"spanbus_phase_duration_seconds", "spanbus_phase_failures_total", "spanbus_phase_retries_total", "cicd_pipeline_run_duration_seconds"} <= there
    assert (stack.value(f'spanbus_phase_duration_seconds_bucket{{{labels},le="+Inf"}}') or 0) >= 1
    begin = time.time() - 600
    url = f"{stack.prometheus_url}/api/v1/query_exemplars?query=spanbus_phase_duration_seconds_bucket&start={begin}&end={time.time() + 60}"

    def exemplars() -> set[str]:
        document = cast("Json", get(url) or {})
        return {each["labels"]["trace_id"] for series in cast("list[Json]", document.get("data") or []) for each in cast("list[Json]", series["exemplars"])}  # type: ignore[index, misc]

    eventually(lambda: trace_id in exemplars())


def many(cli: Cli, count: int, workflow: str, command: str = "false", at_once: int = 8) -> None:
    """So many processes, some at once, each a run of one phase."""
    running: list[subprocess.Popen[str]] = []
    for _ in range(count):
        while len([process for process in running if process.poll() is None]) >= at_once:
            time.sleep(0.01)
        running.append(cli.start("exec", "--workflow", workflow, "--name", "check", "--", command))
    for process in running:
        process.communicate(timeout=60)


def test_37_processes_with_one_failure_each_count_37_and_are_told_and_resolved(stack: Stack, cli: Cli) -> None:
    many(cli, 37, "burst")
    cli("flush")
    eventually(lambda: stack.value('spanbus_phase_failures_total{cicd_pipeline_name="burst"}') == 37)
    eventually(lambda: stack.value('spanbus:phase_failures:15m{cicd_pipeline_name="burst"}') == 37)
    eventually(lambda: stack.webhook.named("WorkflowPhaseFailed", cicd_pipeline_name="burst"))
    [alert] = stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name="burst")[:1] or cast(
        "list[Json]", eventually(lambda: stack.webhook.named("WorkflowPhaseFailing", cicd_pipeline_name="burst"))
    )[:1]
    assert cast("Json", alert["annotations"])["runbook"]
    assert cli("exec", "--workflow", "burst", "--name", "check", "--", "true").code == 0
    eventually(lambda: stack.webhook.named("WorkflowPhaseFailing", "resolved", cicd_pipeline_name="burst"), 60)


def test_two_services_keep_their_own_series_beside_runs(stack: Stack, cli: Cli) -> None:
    many(cli, 20, "mixed")
    service = """
import sys
from spanbus.runtime import Runtime
with Runtime(lifetime="service") as runtime:
    for number in range(5):
        run = f"{sys.argv[1]}-{number}"
        runtime.handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": run, "workflow": "mixed"}})
        runtime.handle.feed({"event_type": "workflow.quality.started", "payload": {"workflow_id": run, "step_id": "check", "phase": "check"}})
        runtime.handle.feed({"event_type": "workflow.failed", "payload": {"workflow_id": run, "step_id": "check", "phase": "check"}})
        runtime.handle.feed({"event_type": "workflow.failed", "payload": {"workflow_id": run}})
"""
    import sys

    for name in ("one", "two"):
        env = {"OTEL_SERVICE_NAME": "payments", "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={name}", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        done = subprocess.run([sys.executable, "-c", service, name], env=cli.environment(env), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    cli("flush")

    def series() -> list[float]:
        return sorted(value for labels, value in stack.query('spanbus_phase_failures_total{cicd_pipeline_task_name="check",job=~"spanbus|payments"}')
                      if labels["cicd_pipeline_name"].startswith("mixed") or labels["job"] == "payments")

    eventually(lambda: series() == [5, 5, 20])


def test_the_collector_restarts_in_the_middle(own_stack: Stack, own_cli: Cli) -> None:
    many(own_cli, 10, "before")
    eventually(lambda: own_stack.value('spanbus_phase_failures_total{cicd_pipeline_name="before"}') == 10)
    own_stack.collector.stop()
    own_cli.env["SPANBUS_EXIT_TIMEOUT_S"] = "0.25"
    many(own_cli, 12, "during")  # nobody takes it: it waits in the spool
    own_stack.collector.start()
    own_cli.env["SPANBUS_EXIT_TIMEOUT_S"] = "5"
    many(own_cli, 15, "during")
    assert own_cli("flush").code == 0
    eventually(lambda: own_stack.value('spanbus_phase_failures_total{cicd_pipeline_name="during"}') == 27)
    eventually(lambda: own_stack.webhook.named("WorkflowPhaseFailed", cicd_pipeline_name="during"))


def test_jaeger_down_and_the_collector_killed_lose_no_trace(own_stack: Stack, own_cli: Cli) -> None:
    own_stack.jaeger.stop()
    for _ in range(5):
        own_cli("run", "-q")
    runs = [run["trace_id"] for run in json.loads(own_cli("runs", "--json").out)]
    time.sleep(1.0)  # the queue is on the disk
    own_stack.collector.kill()
    own_stack.jaeger.start()
    own_stack.collector.start()
    eventually(lambda: all(own_stack.trace(trace_id) for trace_id in runs), 60)


def test_a_secret_of_somebody_elses_client_is_in_none_of_them(stack: Stack, cli: Cli) -> None:
    """The collector's own net: the client here takes nothing out."""
    secret = "gh" + "p_" + "a1B2" * 9
    (cli.folder / "spanbus.toml").write_text(f'redact = false\n[workflows.leak]\nphases = [ {{ name = "p", run = ["sh", "-c", "echo token {secret}; exit 1"] }} ]\n')
    done = cli("run", "leak", "--json")
    [run] = cast("list[Json]", done.json()["runs"])
    assert secret in json.dumps(cli("show", "--otlp").json())
    found = eventually(lambda: stack.trace(str(run["trace_id"])))
    assert secret not in json.dumps(found)
    assert secret not in stack.collector.log()
    assert secret not in json.dumps(get(f"{stack.prometheus_url}/api/v1/series?match[]=%7B__name__%3D~%22spanbus.%2B%22%7D"))


def test_200_runs_8_at_a_time_are_200_traces_and_exact_counts(stack: Stack, cli: Cli) -> None:
    many(cli, 200, "volume", "true")
    cli("flush")
    runs = json.loads(cli("runs", "--json", "-w", "volume", "-n", "500").out)
    assert len({run["trace_id"] for run in runs}) == 200
    eventually(lambda: sum(value for _, value in stack.query('spanbus_phase_duration_seconds_count{cicd_pipeline_name="volume"}')) == 200)
    eventually(lambda: all(stack.trace(run["trace_id"]) for run in runs), 60)
