"""`spanbus run` and `spanbus exec`, from the process to the bytes that a collector receives."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import cast

import pytest
from command_line import Cli, Json

from spanbus._otlp.decode import attributes
from spanbus._semantics import definitions, names
from spanbus.testing import Receiver


def test_a_run_prints_what_happened_and_exits_with_1_when_a_phase_failed(project: Cli) -> None:
    done = project("run")
    assert done.code == 1
    assert "✗ fast_hooks" in done.out
    assert re.search(r"comprehensive +↷ skip", done.out)
    assert "2 attempts" in done.out
    assert "bad line 7" in done.out
    assert "\x1b" not in done.out


def test_runs_are_listed_by_one_result_by_several_and_by_those_that_count_as_failures(
    cli: Cli,
) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows]\ngood = { phases = [ { name = "a", run = "true" } ] }\nbad = { phases = [ { name = "a", run = "false" } ] }\n'
        'slow = { phases = [ { name = "a", run = "sleep 60", timeout = "100ms" } ] }\n'
    )
    for workflow in ("good", "bad", "slow"):
        cli("run", workflow, "-q")

    def found(*arguments: str) -> dict[str, str]:
        return {
            str(run["workflow"]): str(run["result"])
            for run in cast("list[Json]", json.loads(cli("runs", "--json", *arguments).out))
        }

    everything = found()
    assert set(everything) == {"good", "bad", "slow"}
    assert everything["slow"] in ("failure", "timeout")
    assert set(found("-r", "failed")) == {"bad", "slow"}
    assert set(found("-r", "success", "-r", everything["bad"])) >= {"good", "bad"}
    assert found("--result", "success,skip") == {"good": "success"}
    wrong = cli("runs", "-r", "fialed")
    assert (wrong.code, wrong.out) == (1, "")
    assert "no stored run ended as 'fialed'; results are success, failure" in wrong.err


def test_show_names_the_runs_within_a_run(cli: Cli) -> None:
    argv = [*cli.argv("exec", "--", "true")]
    quoted = ", ".join(json.dumps(word) for word in argv)
    (cli.folder / "spanbus.toml").write_text(
        f'[workflows.outer]\nphases = [ {{ name = "a", run = [{quoted}] }} ]\n'
    )
    assert cli("run", "-q").code == 0
    runs = {
        str(run["workflow"]): str(run["run_id"])
        for run in cast("list[Json]", json.loads(cli("runs", "--json").out))
    }
    assert f"contains run {runs['true']}  true  success  " in cli("show", runs["outer"]).out
    assert "contains" not in cli("show", runs["true"]).out


def test_runs_are_kept_for_the_configured_days(cli: Cli) -> None:
    def listed() -> int:
        return len(cast("list[Json]", json.loads(cli("runs", "--json").out)))

    cli("exec", "--", "true")
    assert listed() == 1
    with sqlite3.connect(cli.folder / "state" / "store.sqlite3") as connection:
        connection.execute("UPDATE spans SET stored_at_s = stored_at_s - 2 * 86400")
    connection.close()
    cli("exec", "--", "true", env={"SPANBUS_STORE_DAYS": "3"})
    assert listed() == 2
    cli("exec", "--", "true", env={"SPANBUS_STORE_DAYS": "1"})
    assert listed() == 2
    refused = cli("exec", "--", "true", env={"SPANBUS_STORE_DAYS": "0"})
    assert (refused.code, "SPANBUS_STORE_DAYS" in refused.err, "from 1 to 3650" in refused.err) == (
        0,
        True,
        True,
    )


def test_show_is_suggested_only_if_the_run_is_stored(project: Cli) -> None:
    (project.folder / "file").touch()
    nowhere = project("run", env={"SPANBUS_STATE_DIR": str(project.folder / "file" / "state")})
    assert "spanbus show" not in nowhere.out
    assert "are lost" in nowhere.err
    assert "spanbus show" in project("run").out


@pytest.mark.usefixtures("by_each_delivery")
def test_json_is_one_document_of_the_documented_shape(project: Cli) -> None:
    done = project("run", "--json")
    document = done.json()
    assert done.code == 1
    assert list(document) == ["runs", "totals"]
    [run] = cast("list[Json]", document["runs"])
    assert list(run) == [
        "run_id",
        "workflow",
        "trace_id",
        "result",
        "error_type",
        "error",
        "started_at",
        "duration_s",
        "command",
        "exit_code",
        "output_tail",
        "log",
        "phases",
    ]
    assert (run["workflow"], run["result"], run["error_type"]) == (
        "standard",
        "failure",
        "unsuccessful",
    )
    phases = {phase["name"]: phase for phase in cast("list[Json]", run["phases"])}
    assert list(phases["fast_hooks"]) == [
        "name",
        "result",
        "error_type",
        "error",
        "skip_reason",
        "attempts",
        "retries",
        "start_offset_s",
        "duration_s",
        "command",
        "exit_code",
        "output_tail",
        "log",
        "span_id",
        "events",
        "flags",
        "children",
    ]
    assert {
        name: (phase["result"], phase["attempts"], phase["retries"])
        for name, phase in phases.items()
    } == {
        "fast_hooks": ("failure", 1, 0),
        "cleaning": ("success", 1, 0),
        "comprehensive": ("skip", 1, 0),
        "tests": ("success", 2, 1),
    }
    assert [
        (child["kind"], child["name"], child["result"])
        for child in cast("list[Json]", phases["fast_hooks"]["children"])
    ] == [
        ("hook", "ok", "success"),
        ("hook", "lint", "failure"),
    ]
    totals = cast("dict[str, int]", document["totals"])
    assert (
        totals["run_failures"],
        totals["phase_failures"],
        totals["retries"],
        totals["orphan_ends"],
        totals["abandoned"],
    ) == (1, 1, 1, 0, 0)
    assert totals["events_seen"] == totals["events_recorded"]


@pytest.mark.usefixtures("by_each_delivery")
def test_show_gives_the_same_run_as_the_run_command(project: Cli) -> None:
    ran = project("run", "--json").json()
    shown = project("show", "--json").json()
    [run] = cast("list[Json]", ran["runs"])
    assert shown == run
    assert project("show", str(run["run_id"])[:-2], "--json").json() == run
    listed = json.loads(project("runs", "--json").out)
    assert [each["run_id"] for each in listed] == [run["run_id"]]
    assert "phases" not in listed[0]
    timeline = project("show", "--events")
    assert timeline.code == 0
    assert "hooks.execution.failed" in timeline.out


def test_a_recorded_run_replays_to_the_same_runs(project: Cli) -> None:
    ran = project("run", "--json", "--record", "events.jsonl").json()
    replayed = project("replay", "events.jsonl", "--json", "--dry-run").json()
    assert replayed == ran
    lines = (project.folder / "events.jsonl").read_text().splitlines()
    (project.folder / "shuffled.jsonl").write_text("\n".join(reversed(lines + lines[:5])) + "\n")
    again = project("replay", "shuffled.jsonl", "--json", "--dry-run").json()
    assert again["runs"] == ran["runs"]


@pytest.mark.usefixtures("by_each_delivery")
def test_a_collector_gets_exactly_the_telemetry_of_the_catalogue(
    project: Cli,
) -> None:
    with Receiver() as receiver:
        done = project("run", "--json", env=receiver.env)
        assert receiver.wait_until(lambda got: got.sum_of(names.PHASE_FAILURES) >= 1)
    [run] = cast("list[Json]", done.json()["runs"])
    spans = {span.span_id.hex(): span for span in receiver.spans()}
    assert len(spans) == len(receiver.spans())
    known = {attribute.name for attribute in definitions.ATTRIBUTES}

    def is_known(name: str) -> bool:
        return name in known or any(
            attribute.endswith("}") and name.startswith(attribute[: attribute.index("{")])
            for attribute in known
        )

    for span in spans.values():
        assert span.trace_id.hex() == run["trace_id"]
        for name in [
            *attributes(span.attributes),
            *(pair.key for event in span.events for pair in event.attributes),
        ]:
            assert is_known(name), name
    phases = {
        str(phase["name"]): spans[str(phase["span_id"])]
        for phase in cast("list[Json]", run["phases"])
    }
    assert set(phases) == {"fast_hooks", "cleaning", "comprehensive", "tests"}
    [root] = [span for span in spans.values() if span.name == "RUN standard"]
    assert {span.parent_span_id for span in phases.values()} == {root.span_id}
    assert sorted(span.name for span in spans.values()) == sorted(
        [
            "RUN standard",
            "fast_hooks",
            "cleaning",
            "comprehensive (skip)",
            "tests",
            "hook ok",
            "hook lint",
            "sh",
            "sh",
            "sh",
            "tests attempt 1",
            "tests attempt 2",
        ]
    )
    assert "hooks.strategy.failed" in {event.name for event in phases["fast_hooks"].events}
    metrics = {metric.name: metric for metric in receiver.metrics()}
    catalogue = {metric.name: metric for metric in names.METRICS}
    assert set(metrics) <= set(catalogue)
    assert {
        names.RUN_DURATION,
        names.PHASE_DURATION,
        names.PHASE_FAILURES,
        names.PHASE_RETRIES,
        names.RUN_ERRORS,
        names.EVENTS,
    } <= set(metrics)
    for name, metric in metrics.items():
        assert metric.unit == catalogue[name].unit
    assert receiver.sum_of(names.PHASE_FAILURES) == 1
    assert receiver.sum_of(names.PHASE_RETRIES) == 1
    assert receiver.sum_of(names.RUN_ERRORS) == 1
    failures = metrics[names.PHASE_FAILURES].sum
    assert failures.aggregation_temporality == 1  # delta
    assert {
        tuple(
            sorted((pair.key, pair.value.string_value) for pair in point.attributes)
        ): point.as_int
        for point in failures.data_points
    } == {
        ((names.PIPELINE_NAME, "standard"), (names.TASK_NAME, name)): int(name == "fast_hooks")
        for name in phases
    }
    histogram = metrics[names.PHASE_DURATION].histogram
    assert sum(point.count for point in histogram.data_points) == 4
    assert list(histogram.data_points[0].explicit_bounds) == list(names.DURATION_BUCKETS_S)
    exemplars = {
        exemplar.span_id for point in histogram.data_points for exemplar in point.exemplars
    }
    assert exemplars <= {span.span_id for span in phases.values()}
    assert exemplars
    for request in receiver.taken("traces"):
        for resource, _ in request.spans_with_resource():
            said = {pair.key: pair.value.string_value for pair in resource.attributes}
            assert (said["service.name"], said[names.LIFETIME]) == ("spanbus", "run")


@pytest.mark.usefixtures("by_each_delivery")
def test_exec_of_false_is_a_failed_phase_and_exit_code_1(cli: Cli) -> None:
    with Receiver() as receiver:
        done = cli(
            "exec", "--workflow", "nightly", "--name", "check", "--", "false", env=receiver.env
        )
        assert receiver.wait_until(lambda got: got.sum_of(names.PHASE_FAILURES) >= 1)
    assert (done.code, done.out, done.err) == (1, "", "")
    [phase] = [span for span in receiver.spans() if span.name == "check"]
    said = attributes(phase.attributes)
    assert (said[names.TASK_RESULT], said[names.ERROR_TYPE], said[names.PIPELINE_NAME]) == (
        "failure",
        "unsuccessful",
        "nightly",
    )
    assert receiver.sum_of(names.PHASE_FAILURES) == 1


def test_exec_passes_on_exit_code_and_streams(cli: Cli) -> None:
    done = cli("exec", "--", "sh", "-c", "cat; echo err >&2; exit 42", stdin="through\n")
    assert (done.code, done.out, done.err) == (42, "through\n", "err\n")
    assert cli("exec", "--", "sh", "-c", "kill -9 $$").code == 137
    assert cli("exec", "--", "no-such-command-at-all").code == 127
    (cli.folder / "plain").write_text("not a program")
    assert cli("exec", "--", "./plain").code == 126


def test_exec_continues_the_trace_context_and_passes_it_on(cli: Cli) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    done = cli(
        "exec",
        "--",
        "sh",
        "-c",
        "echo $TRACEPARENT; echo $BAGGAGE",
        env={"TRACEPARENT": parent, "BAGGAGE": "team=red"},
    )
    traceparent, baggage = done.out.splitlines()
    assert traceparent.split("-")[1] == parent.split("-")[1]
    assert traceparent.split("-")[2] != parent.split("-")[2]
    assert baggage == "team=red"
    shown = cli("show", "--json").json()
    assert shown["trace_id"] == parent.split("-")[1]
    [phase] = cast("list[Json]", shown["phases"])
    [command] = cast("list[Json]", phase["children"])
    assert command["span_id"] == traceparent.split("-")[2]


@pytest.mark.usefixtures("by_each_delivery")
def test_a_run_inside_a_phase_is_part_of_the_same_trace(cli: Cli) -> None:
    inner = subprocess.list2cmdline(cli.argv("exec", "--workflow", "inner", "--", "true"))
    assert cli("exec", "--workflow", "outer", "--", "sh", "-c", inner).code == 0
    runs = {run["workflow"]: run for run in json.loads(cli("runs", "--json").out)}
    assert runs["inner"]["trace_id"] == runs["outer"]["trace_id"]


@pytest.mark.parametrize(
    ("traceparent", "state"),
    [("nonsense", "none"), ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "old=1")],
)
def test_the_state_of_a_trace_goes_to_a_phase_with_that_trace_alone(
    cli: Cli, traceparent: str, state: str
) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [{ name = "a", run = ["sh", "-c", "echo state ${TRACESTATE-none}"] }]\n'
    )
    done = cli("run", env={"TRACEPARENT": traceparent, "TRACESTATE": "old=1"})
    assert f"| state {state}\n" in done.out


@pytest.mark.usefixtures("by_each_delivery")
def test_ctrl_c_ends_phases_as_cancelled_and_still_delivers(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.long]\nphases = [ { name = "wait", run = "sleep 60" }, { name = "after", run = "true", needs = ["wait"] } ]\n'
    )
    for which, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with Receiver() as receiver:
            process = cli.start("run", "--json", env=receiver.env)
            assert process.stderr is not None
            line = process.stderr.readline()
            assert "wait: started" in line
            time.sleep(0.2)
            process.send_signal(which)
            out, err = process.communicate(timeout=20)
            assert process.returncode == code, err
            [run] = json.loads(out)["runs"]
            assert run["result"] == "cancellation"
            assert [(phase["name"], phase["result"]) for phase in run["phases"]] == [
                ("wait", "cancellation"),
                ("after", "cancellation"),
            ]
            assert json.loads(out)["totals"]["phase_failures"] == 0
            assert receiver.wait_until(lambda got: len(got.spans()) >= 2)
            assert receiver.sum_of(names.PHASE_FAILURES) == 0


@pytest.mark.usefixtures("by_each_delivery")
def test_a_phase_above_its_timeout_is_a_timeout(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "slow", run = "sleep 60", timeout = "200ms" } ]\n'
    )
    done = cli("run", "--json")
    [run] = cast("list[Json]", done.json()["runs"])
    [phase] = cast("list[Json]", run["phases"])
    assert (done.code, phase["result"], phase["error_type"], run["result"]) == (
        1,
        "timeout",
        "timeout",
        "timeout",
    )


def test_deselected_phases_are_published_as_skipped(project: Cli) -> None:
    done = project("run", "--json", "--skip", "fast_hooks", "--skip", "tests")
    [run] = cast("list[Json]", done.json()["runs"])
    assert {phase["name"]: phase["result"] for phase in cast("list[Json]", run["phases"])} == {
        "fast_hooks": "skip",
        "cleaning": "success",
        "comprehensive": "success",
        "tests": "skip",
    }
    assert done.code == 0
    only = project("run", "--json", "--only", "cleaning").json()
    [run] = cast("list[Json]", only["runs"])
    assert [
        phase["name"] for phase in cast("list[Json]", run["phases"]) if phase["result"] == "success"
    ] == ["cleaning"]


def test_with_the_sdk_disabled_a_run_works_and_nothing_is_kept(project: Cli) -> None:
    done = project("run", "--json", env={"OTEL_SDK_DISABLED": "true"})
    [run] = cast("list[Json]", done.json()["runs"])
    assert run["result"] == "failure"
    assert not (project.folder / "state").exists()


def test_sixteen_runs_at_once_on_one_state_directory(cli: Cli) -> None:
    running = [cli.start("exec", "--workflow", f"w{number}", "--", "true") for number in range(16)]
    assert [process.wait(60) for process in running] == [0] * 16
    for process in running:
        process.communicate()
    assert {run["workflow"] for run in json.loads(cli("runs", "--json", "-n", "50").out)} == {
        f"w{number}" for number in range(16)
    }


def test_files_of_the_state_directory_are_private(project: Cli) -> None:
    project("run", "-q")
    state = project.folder / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    for path in state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_dead_collector_costs_a_run_one_line(cli: Cli, tmp_path: Path) -> None:
    del tmp_path
    free = cli("exec", "--", "true")
    assert free.code == 0
    done = cli("exec", "--", "true", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert done.code == 0
    assert len(done.err.splitlines()) <= 1


def test_the_cwd_of_a_phase_is_relative_to_the_project(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [\n  { name = "a", run = "pwd", cwd = "sub" },\n  { name = "b", cwd = "sub", hooks = [ { name = "h", run = "pwd", cwd = "deeper" } ] },\n]\n'
    )
    deeper = cli.folder / "sub" / "deeper"
    deeper.mkdir(parents=True)
    done = Cli(deeper, {"SPANBUS_STATE_DIR": str(cli.folder / "state")})("run")
    assert done.code == 0
    assert f"a/pwd | {deeper.parent}\n" in done.out
    assert f"b/h | {deeper}\n" in done.out


def test_the_environment_of_a_phase_is_that_of_its_table(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [ { name = "a", run = "sh -c \'echo $WORD $NUMBER $FLAG\'", env = { WORD = "x", NUMBER = 3, FLAG = true } } ]\n'
    )
    assert "a/sh | x 3 true\n" in cli("run").out


def test_show_is_not_suggested_for_an_unsampled_run(project: Cli) -> None:
    for env in (
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"TRACEPARENT": f"00-{'1' * 32}-{'2' * 16}-00"},
    ):
        done = project("run", "-q", env=env)
        assert "not sampled" in done.out
        assert "spanbus show" not in done.out
    assert project("show").code == 1
    assert "spanbus show 2" in project("run", "-q").out


def test_show_is_not_suggested_for_a_run_that_is_not_stored(project: Cli) -> None:
    with Receiver() as receiver:
        done = project(
            "run", "-q", env={"SPANBUS_LOCAL": "off", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        )
    assert "trace " in done.out
    assert "spanbus show" not in done.out


def test_the_timeline_writes_lists_and_booleans_as_json(project: Cli) -> None:
    project("run", "-q")
    out = project("show", "--events").out
    assert 'needs=["cleaning"]' in out
    assert "success=false" in out
    assert "('" not in out
