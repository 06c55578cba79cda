"""spanbus demo: what a newcomer is shown is what happened."""

from __future__ import annotations

import json

from command_line import Cli


def test_the_demo_shows_a_retry_a_failure_its_metrics_and_its_alert(cli: Cli) -> None:
    first, second = cli("demo"), cli("demo")
    assert (first.code, second.code, first.err) == (0, 0, "")
    assert "comprehensive: attempt 1 failed, trying again" in first.out
    assert "AssertionError: 896 != 895" in first.out
    assert 'spanbus_phase_failures_total{cicd_pipeline_task_name="tests"}  1\n' in first.out
    assert "phase tests of workflow shop failed once in the last 15 minutes" in first.out
    assert 'spanbus_phase_failures_total{cicd_pipeline_task_name="tests"}  2\n' in second.out
    assert "phase tests of workflow shop failed 2 times in the last 15 minutes" in second.out
    runs = json.loads(cli("runs", "--json").out)
    assert [(run["workflow"], run["result"]) for run in runs] == [("shop", "failure")] * 2
    phases = {phase["name"]: (phase["result"], phase["attempts"]) for phase in json.loads(cli("show", "--json").out)["phases"]}
    assert phases == {
        "fast_hooks": ("success", 1), "cleaning": ("success", 1), "comprehensive": ("success", 2), "tests": ("failure", 1), "package": ("skip", 1),
    }


def test_the_demo_says_so_when_telemetry_is_off(cli: Cli) -> None:
    done = cli("demo", env={"OTEL_SDK_DISABLED": "true"})
    assert done.code == 0
    assert "switched off" in done.out
    assert json.loads(cli("runs", "--json").out) == []
