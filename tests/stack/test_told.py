"""What Alertmanager holds back, and where the links of an alert lead, with the real servers and the shipped files."""

from __future__ import annotations

import json
import secrets
import time
import urllib.parse
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest
from servers import Json, Stack, eventually, get

pytestmark = pytest.mark.stack

DAY_S = 86_400


def post(url: str, document: object) -> None:
    request = urllib.request.Request(
        url, json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


# --- inhibition ---------------------------------------------------------------------------------------------------------


class People:
    """Alertmanager alone, with the shipped rules of who is told, and a webhook."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.webhook = stack.webhook

    def fire(self, name: str, *, ended: bool = False, **labels: str) -> None:
        end = {"endsAt": "2026-01-01T00:00:00Z", "startsAt": "2026-01-01T00:00:00Z"}
        alert = {"labels": {"alertname": name, **labels}, **(end if ended else {})}
        post(f"{self._stack.alertmanager_url}/api/v2/alerts", [alert])

    def held_back(self) -> set[tuple[str, str]]:
        """Alert and phase of those that another one inhibits."""
        found = cast("list[Json]", get(f"{self._stack.alertmanager_url}/api/v2/alerts") or [])
        return {
            (labels["alertname"], labels.get("cicd_pipeline_task_name", ""))
            for alert in found
            for labels in [cast("dict[str, str]", alert["labels"])]
            if cast("Json", alert["status"])["inhibitedBy"]
        }


@pytest.fixture
def people(tmp_path: Path) -> Generator[People]:
    stack = Stack(tmp_path)
    stack.alertmanager.start()
    yield People(stack)
    stack.stop()


def phase(name: str, **more: str) -> dict[str, str]:
    return {"job": "shop", "cicd_pipeline_name": "w", "cicd_pipeline_task_name": name, **more}


def test_one_broken_phase_is_one_notification(people: People) -> None:
    """BudgetBurn and PhaseFailed of a phase that is told of as failing are held back, also after it; others are not."""
    broken, staging = phase("broken"), phase("broken", deployment_environment_name="staging")
    people.fire("WorkflowPhaseFailing", severity="critical", **broken)
    people.fire("PhaseFailureBudgetBurn", severity="critical", **broken)
    people.fire("WorkflowPhaseFailed", severity="warning", **broken)
    people.fire("PhaseFailureBudgetBurn", severity="critical", **phase("flaky"))
    people.fire("PhaseFailureBudgetBurn", severity="critical", **staging)
    burning = {("PhaseFailureBudgetBurn", "broken"), ("WorkflowPhaseFailed", "broken")}
    told = people.webhook.named
    eventually(lambda: told("WorkflowPhaseFailing", cicd_pipeline_task_name="broken"))
    eventually(lambda: told("PhaseFailureBudgetBurn", cicd_pipeline_task_name="flaky"))
    eventually(lambda: told("PhaseFailureBudgetBurn", deployment_environment_name="staging"))
    eventually(lambda: people.held_back() == burning)

    people.fire("WorkflowPhaseToldAsFailing", severity="none", **broken)
    people.fire("WorkflowPhaseFailing", severity="critical", ended=True, **broken)
    eventually(lambda: told("WorkflowPhaseFailing", "resolved", cicd_pipeline_task_name="broken"))
    assert people.held_back() == burning
    assert not [
        alert
        for alert in people.webhook.alerts
        if cast("dict[str, str]", alert["labels"]).items() >= broken.items()
        and "deployment_environment_name" not in cast("dict[str, str]", alert["labels"])
        and cast("dict[str, str]", alert["labels"])["alertname"] != "WorkflowPhaseFailing"
    ]
    assert told("WorkflowPhaseToldAsFailing") == []


def test_while_the_collector_is_down_nothing_else_is_said(people: People) -> None:
    people.fire("CollectorDown", severity="critical", job="collector")
    for name in ("JaegerDown", "QueueGrowing", "TelemetryLost", "SpoolAging"):
        people.fire(name, severity="warning", job="shop")
    people.fire("WorkflowDidNotRun", severity="critical", job="shop", cicd_pipeline_name="nightly")
    people.fire("PhaseFailureBudgetBurn", severity="critical", **phase("p"))
    people.fire("Watchdog", severity="none")
    eventually(lambda: people.webhook.named("CollectorDown"))
    eventually(
        lambda: (
            {name for name, _ in people.held_back()}
            == {
                "JaegerDown",
                "QueueGrowing",
                "TelemetryLost",
                "SpoolAging",
                "WorkflowDidNotRun",
                "PhaseFailureBudgetBurn",
            }
        )
    )
    assert len(people.webhook.alerts) == len(people.webhook.named("CollectorDown"))


# --- links --------------------------------------------------------------------------------------------------------------


def said(**values: str) -> list[Json]:
    return [
        {"key": key.replace("__", "."), "value": {"stringValue": value}}
        for key, value in values.items()
    ]


def process(environment: str) -> Json:
    return {
        "attributes": said(
            service__name="archive",
            deployment__environment__name=environment,
            spanbus__lifetime="run",
            service__instance__id=secrets.token_hex(8),
        )
    }


def failed_span(at_s: float, trace_id: str, result: str) -> Json:
    names = {
        "cicd__pipeline__name": "nightly",
        "cicd__pipeline__task__name": "copy",
        "cicd__pipeline__task__run__result": result,
    }
    return {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "name": "copy",
        "startTimeUnixNano": str(int((at_s - 30) * 1e9)),
        "endTimeUnixNano": str(int(at_s * 1e9)),
        "attributes": said(**names),
    }


def last_run(at_s: float, result: str) -> Json:
    point = {
        "asDouble": at_s,
        "timeUnixNano": str(time.time_ns()),
        "attributes": said(
            cicd__pipeline__name="nightly",
            cicd__pipeline__task__name="copy",
            cicd__pipeline__task__run__result=result,
        ),
    }
    gauge = {"dataPoints": [point]}
    return {"name": "spanbus.phase.last_run.timestamp", "unit": "s", "gauge": gauge}


def test_the_link_of_an_old_alert_finds_its_run(stack: Stack) -> None:
    """A phase that failed five days ago, and did not run since: the failed run of that environment, and no other."""
    failed_s = time.time() - 5 * DAY_S
    traces = {environment: secrets.token_hex(16) for environment in ("prod", "staging")}
    passed = secrets.token_hex(16)
    for environment, trace_id in traces.items():
        spans = [failed_span(failed_s, trace_id, "timeout")]
        if environment == "prod":
            spans.append(failed_span(failed_s - DAY_S, passed, "success"))
        group = {"resource": process(environment), "scopeSpans": [{"spans": spans}]}
        post(f"{stack.otlp}/v1/traces", {"resourceSpans": [group]})
    group = {
        "resource": process("prod"),
        "scopeMetrics": [{"metrics": [last_run(failed_s, "timeout")]}],
    }
    post(f"{stack.otlp}/v1/metrics", {"resourceMetrics": [group]})
    for trace_id in (*traces.values(), passed):
        eventually(lambda trace_id=trace_id: stack.trace(trace_id))
    [alert] = cast(
        "list[Json]",
        eventually(
            lambda: stack.webhook.named(
                "WorkflowPhaseFailing", job="archive", deployment_environment_name="prod"
            )
        ),
    )
    link = urllib.parse.urlsplit(cast("dict[str, str]", alert["annotations"])["trace"])
    assert link.path == "/search"
    asked = dict(urllib.parse.parse_qsl(link.query))
    assert int(asked["start"]) / 1e6 == pytest.approx(failed_s - 2 * DAY_S, abs=1)
    assert int(asked["end"]) / 1e6 == pytest.approx(failed_s + 3_600, abs=1)
    found = cast("Json", get(f"{stack.jaeger_url}/api/traces?{link.query}"))
    assert [each["traceID"] for each in cast("list[Json]", found["data"])] == [traces["prod"]]
