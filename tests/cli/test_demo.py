"""`spanbus demo` shows what really happened."""

from __future__ import annotations

import json
import subprocess

from command_line import Cli

from spanbus.testing import Receiver


def test_the_demo_shows_a_retry_a_failure_its_metrics_and_its_alert(cli: Cli) -> None:
    first, second = cli("demo"), cli("demo")
    assert (first.code, second.code, first.err) == (0, 0, "")
    assert " style " in first.out
    assert "comprehensive: attempt 1 failed, trying again" in first.out
    assert "AssertionError: 896 != 895" in first.out
    assert 'spanbus_phase_failures_total{cicd_pipeline_task_name="tests"}  1\n' in first.out
    assert "phase tests of workflow shop failed once in the last 15 minutes" in first.out
    assert 'spanbus_phase_failures_total{cicd_pipeline_task_name="tests"}  2\n' in second.out
    assert "phase tests of workflow shop failed 2 times in the last 15 minutes" in second.out
    assert json.loads(cli("runs", "--all", "--json").out) == []
    demo = {"SPANBUS_STATE_DIR": str(cli.folder / "state" / "demo")}
    runs = json.loads(cli("runs", "--all", "--json", env=demo).out)
    assert [(run["workflow"], run["result"]) for run in runs] == [("shop", "failure")] * 2
    phases = {
        phase["name"]: (phase["result"], phase["attempts"])
        for phase in json.loads(cli("show", "--all", "--json", env=demo).out)["phases"]
    }
    assert phases == {
        "fast_hooks": ("success", 1),
        "cleaning": ("success", 1),
        "comprehensive": ("success", 2),
        "tests": ("failure", 1),
        "package": ("skip", 1),
    }


def test_the_demo_does_not_use_the_users_store_collector_or_trace(cli: Cli) -> None:
    with Receiver() as receiver:
        done = cli(
            "demo",
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
                "OTEL_SERVICE_NAME": "users",
                "TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-01",
                "SPANBUS_LOCAL": "off",
            },
        )
        assert done.code == 0
        assert receiver.spans() == []
    assert "trace" in done.out
    assert "1" * 32 not in done.out
    assert not (cli.folder / "state" / "store.sqlite3").exists()
    assert (cli.folder / "state" / "demo" / "store.sqlite3").exists()


def test_the_demo_reports_that_telemetry_is_off(cli: Cli) -> None:
    done = cli("demo", env={"OTEL_SDK_DISABLED": "true"})
    assert done.code == 0
    assert "switched off" in done.out
    assert json.loads(cli("runs", "--json").out) == []


def test_the_suggested_command_of_the_demo_works(cli: Cli) -> None:
    shown = cli("demo").out
    (pasted,) = [
        line.strip() for line in shown.splitlines() if line.endswith("show --all --events")
    ]
    done = subprocess.run(
        ["sh", "-c", pasted],
        env=cli.environment(),
        cwd=cli.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "price-list" in done.stdout) == (0, True), done.stderr
