"""The shipped files, judged by the tools of the servers that read them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from servers import ROOT, binary

pytestmark = pytest.mark.stack

ALERTS = {
    "WorkflowPhaseFailed", "WorkflowPhaseFailing", "WorkflowDidNotRun", "WorkflowRunStalled", "PhaseSlow", "PhaseFailureBudgetBurn", "TelemetryLost",
    "CollectorDown",
}


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_and_every_rule_test_passes() -> None:
    promtool = binary("promtool")
    run(promtool, "check", "rules", "deploy/prometheus/rules.yml", "deploy/prometheus/alerts.yml")
    run(promtool, "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")
    assert "SUCCESS" in run(promtool, "test", "rules", "deploy/prometheus/alerts_test.yml")


def test_every_alert_that_was_promised_is_there_with_a_test_and_a_runbook() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert set(alerts) == ALERTS
    tested = (ROOT / "deploy/prometheus/alerts_test.yml").read_text()
    for name, rule in alerts.items():
        assert set(rule["annotations"]) == {"summary", "description", "runbook", "dashboard"}
        assert (ROOT / rule["annotations"]["runbook"]).is_file(), name
        found = re.findall(rf"alertname: {name}\b", tested)
        assert len(found) >= 2, f"{name} needs a test in which it fires and one in which it stays silent"


def test_amtool_finds_nothing_wrong_and_routes_to_people() -> None:
    amtool = binary("amtool")
    run(amtool, "check-config", "deploy/alertmanager/alertmanager.yml")
    assert run(amtool, "config", "routes", "test", "--config.file=deploy/alertmanager/alertmanager.yml", "alertname=WorkflowPhaseFailed").strip() == "people"


@pytest.mark.parametrize("files", [["collector-config.yaml"]], ids=["default"])
def test_the_collector_accepts_its_configuration(files: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [binary("otelcol"), "validate", *(f"--config={ROOT / name}" for name in files)], env={"QUEUE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
