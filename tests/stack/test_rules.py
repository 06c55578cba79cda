"""The shipped files, judged by the tools of the servers that read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from servers import ROOT, binary

pytestmark = pytest.mark.stack

ALERTS = {  # those that people are told of
    "WorkflowPhaseFailed",
    "WorkflowPhaseFailing",
    "WorkflowDidNotRun",
    "WorkflowRunStalled",
    "PhaseSlow",
    "PhaseFailureBudgetBurn",
    "TelemetryLost",
    "SpoolAging",
    "CollectorDown",
    "JaegerDown",
    "QueueGrowing",
    "StreamLimit",
    "ObserversLag",
    "ObserversGone",
    "EventsLost",
    "CheckpointStands",
    "ClockWrong",
    "QueueWaits",
    "Watchdog",
}
RULE_TESTS = ("alerts_test.yml", "retired_test.yml", "days_test.yml", "observers_test.yml")
RUNBOOKS = "https://spanbus.github.io/spanbus/runbooks"


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_nothing_wrong() -> None:
    promtool = binary("promtool")
    run(promtool, "check", "rules", "deploy/prometheus/rules.yml", "deploy/prometheus/alerts.yml")
    run(promtool, "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")


@pytest.mark.parametrize("name", RULE_TESTS)
def test_every_rule_test_passes(name: str) -> None:
    assert "SUCCESS" in run(binary("promtool"), "test", "rules", f"deploy/prometheus/{name}")


def test_every_rule_test_is_run() -> None:
    assert {path.name for path in (ROOT / "deploy/prometheus").glob("*_test.yml")} == set(
        RULE_TESTS
    )


def test_every_alert_that_was_promised_is_there_with_a_test_and_a_runbook() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    alerts = {name: rule for name, rule in rules.items() if "annotations" in rule}
    assert set(alerts) == ALERTS
    assert set(rules) - set(alerts) == {"WorkflowPhaseToldAsFailing"}
    tested = "".join((ROOT / "deploy/prometheus" / name).read_text() for name in RULE_TESTS)
    for name, rule in alerts.items():
        annotations = rule["annotations"]
        assert {"summary", "description", "runbook"} <= set(annotations)
        assert annotations["runbook"] == f"{RUNBOOKS}/{name}/"
        assert (ROOT / "docs" / "runbooks" / f"{name}.md").is_file(), name
        if "cicd_pipeline_name" in annotations["summary"]:
            assert "trace" in annotations and "dashboard" in annotations
        found = re.findall(rf"alertname: {name}\b", tested)
        assert len(found) >= (1 if name == "Watchdog" else 2), (
            f"{name} needs a test in which it fires and one in which it stays silent"
        )
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"index"} == ALERTS


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=WorkflowPhaseFailed", "cicd_pipeline_task_name=p"], "people"),
        (["alertname=CollectorDown"], "people"),
        (["alertname=Watchdog", "severity=none"], "watchdog"),
        (["alertname=WorkflowPhaseToldAsFailing", "severity=none"], "nobody"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_amtool_finds_nothing_wrong_and_routes(labels: list[str], receiver: str) -> None:
    amtool, config = binary("amtool"), "deploy/alertmanager/alertmanager.yml"
    run(amtool, "check-config", config)
    said = run(amtool, "config", "routes", "test", f"--config.file={config}", *labels)
    assert said.strip() == receiver


@pytest.mark.parametrize("files", [["collector-config.yaml"]], ids=["default"])
def test_the_collector_accepts_its_configuration(files: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [binary("otelcol"), "validate", *(f"--config={ROOT / name}" for name in files)],
        env={"QUEUE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
