"""Every query of every dashboard, against a Prometheus that holds real runs: good ones, bad ones, lost ones."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import yaml
from brokers import Nats, library
from command_line import WORKFLOW, Cli
from dashboards import ROOT, UIDS, Json, Target, filled, panels, targets, variable_query, variables
from observing import Observing, publish, run
from servers import Stack, binary, eventually, get

from spanbus.integrations import nats_stream
from spanbus.testing import Answer, Receiver

pytestmark = pytest.mark.stack

TARGETS = list(targets())
RANGE_S, STEP_S = 900, 15
CHOSEN = {"__range": f"{RANGE_S}s", "__interval": f"{STEP_S}s", "__rate_interval": "20s"}
EVERYWHERE = {**CHOSEN, "project": ".+", "environment": ".*", "branch": ".*"}
ALL = {**EVERYWHERE, "workflow": ".+", "service": ".+", "group": ".+"}
HERE = {
    "OTEL_SERVICE_NAME": "spanbus",
    "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,vcs.ref.head.name=main",
}

SMALL_QUEUE = """
exporters:
  otlp_grpc/jaeger:
    retry_on_failure: { initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 3s }
    sending_queue: { queue_size: 2, num_consumers: 1 }
"""
"""A collector that gives up soon, so that its counts of what it lost can be seen."""

SERVICE = """
import sys
from spanbus._runtime import Runtime

def feed(event_type, run, **payload):
    runtime.handle.feed({"event_type": event_type, "payload": {"workflow_id": run, "workflow": sys.argv[1], **payload}})

with Runtime(lifetime="service") as runtime:
    feed("workflow.started", "ended")
    feed("workflow.quality.started", "ended", step_id="check", phase="check")
    for number in range(int(sys.argv[2])):
        text = dict.fromkeys(("message", "error", "output_tail", "reason"), f"{number} " + "x" * int(sys.argv[3]))
        feed("check.progress", "ended", step_id="check", phase="check", **text)
    feed("workflow.quality.completed", "ended", step_id="check", phase="check", success=True)
    feed("workflow.completed", "ended", success=True)
    runtime.flush(5.0)
    feed("workflow.started", "open")
    print("ready", flush=True)
    sys.stdin.read()
"""
"""One run that ended, one in progress until its input ends."""

TASK = """
import time

import spanbus
from spanbus._semantics import Result
from spanbus._telemetry.redaction import Redactor
from spanbus.integrations.executions import SENT_NS, Delivery, Executions, RunRef

with spanbus.open_runtime_sync() as runtime:
    executions = Executions(runtime.handle, Redactor())
    whose, sent = RunRef("r", "standard", "fast_hooks"), {SENT_NS: time.time_ns() - 2_000_000_000}
    execution = executions.begin(Delivery("t", "fast_hooks", whose, sent, "queue", queue="default"))
    executions.end(execution, Result.SUCCESS)
    runtime.flush(5.0)
"""
"""One execution of a task that waited in a queue for two seconds."""


@dataclass(frozen=True)
class Lived:
    """What happened."""

    stack: Stack
    traces: frozenset[str]

    def instant(self, expr: str) -> list[tuple[dict[str, str], float]]:
        return [
            (labels, value) for labels, value in self.stack.query(expr) if not math.isnan(value)
        ]

    def over_time(self, expr: str) -> list[tuple[dict[str, str], list[float]]]:
        """Each series with its values in the last quarter of an hour, as a graph asks for them."""
        end = math.ceil(time.time() / STEP_S) * STEP_S
        question = urllib.parse.urlencode(
            {"query": expr, "start": end - RANGE_S, "end": end, "step": STEP_S}
        )
        document = cast(
            "Json", get(f"{self.stack.prometheus_url}/api/v1/query_range?{question}") or {}
        )
        found = cast("list[Json]", cast("Json", document.get("data") or {}).get("result") or [])
        series = [
            (
                cast("dict[str, str]", each["metric"]),
                [float(value) for _, value in cast("list[tuple[float, str]]", each["values"])],
            )
            for each in found
        ]
        return [
            (labels, kept)
            for labels, values in series
            if (kept := [value for value in values if not math.isnan(value)])
        ]

    def labels(self, target: Target, expr: str) -> list[dict[str, str]]:
        """The labels of each series that a target gets."""
        return [
            labels for labels, _ in (self.instant(expr) if target.instant else self.over_time(expr))
        ]


def service(
    cli: Cli, workflow: str, events: int, characters: int, **more: str
) -> subprocess.Popen[str]:
    env = cli.environment(
        {
            "OTEL_SERVICE_NAME": workflow,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "SPANBUS_STATE_DIR": str(cli.folder / workflow),
            **more,
        }
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, workflow, str(events), str(characters)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lived]:
    """A stack that saw runs of a workflow and services, good and bad, then lost Jaeger."""
    folder = tmp_path_factory.mktemp("dashboards")
    (folder / "stack").mkdir()
    small = folder / "small-queue.yaml"
    small.write_text(SMALL_QUEUE)
    (folder / "spanbus.toml").write_text(WORKFLOW)
    stack = Stack(folder / "stack", (ROOT / "collector-config.yaml", small))
    cli = Cli(
        folder,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.otlp, "SPANBUS_EXIT_TIMEOUT_S": "5", **HERE},
    )
    with ExitStack() as cleaning:
        cleaning.callback(stack.stop)
        stack.collector.env["COUNT_BRANCHES"] = "yes"
        stack.start()
        traces: set[str] = set()
        for _ in range(2):
            [run] = cast(
                "list[Json]", cli("run", "--json", env={"SPANBUS_EVENTS": "both"}).json()["runs"]
            )
            traces.add(str(run["trace_id"]))
        assert cli("exec", "--workflow", "other", "--name", "check", "--", "true").code == 0
        assert [
            cli("exec", "--workflow", "turned", "--name", "check", "--", command).code
            for command in ("true", "false")
        ] == [0, 1]
        task = [sys.executable, "-c", TASK]
        subprocess.run(task, env=cli.environment(), cwd=folder, check=True, timeout=60)
        for trace_id in traces:  # where Grafana's Jaeger data source asks for it
            eventually(
                lambda trace_id=trace_id: cast(
                    "Json", get(f"{stack.jaeger_url}/api/traces/{trace_id}") or {}
                ).get("data")
            )
        refusing = cleaning.enter_context(Receiver())
        refusing.answer(Answer(400, "no"))
        for name, events, characters, more in (
            ("payments", 500, 10, {}),
            ("refused", 1, 10, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{refusing.url}/v1/traces"}),
            (
                "crowded",
                110,
                4_000,
                {"SPANBUS_SPOOL_QUOTA_BYTES": "1MiB"},
            ),  # a span that is larger than all the room there is
        ):
            cleaning.callback(service(cli, name, events, characters, **more).communicate, "", 60)
        stack.jaeger.stop()
        for _ in range(8):
            cli("exec", "--workflow", "other", "--name", "check", "--", "true")
        eventually(lambda: cli("flush").code == 0, 60)  # what the full queue refused
        yield Lived(stack, frozenset(traces))


@pytest.fixture(scope="module")
def observed(lived: Lived, tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """An observer of a stream that holds a run, and a line that is no event."""
    library("nats")
    folder = tmp_path_factory.mktemp("observed")
    server = Nats(folder / "nats")
    env = {
        **HERE,
        "OTEL_SERVICE_NAME": "observe",
        "OTEL_EXPORTER_OTLP_ENDPOINT": lived.stack.otlp,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    observing = Observing(server, None, folder / "state", env=env)
    try:
        server.start()
        nats_stream.set_up(server.url, nats_stream.Wanted(max_bytes=2**26))
        publish(server.url, run("r-1"), b"no event")
        observing.start()
        yield
    finally:
        observing.kill()
        server.kill()


def live(uid: str, request: pytest.FixtureRequest) -> None:
    """See to it that what a dashboard is about has happened."""
    if uid == "spanbus-observers":
        request.getfixturevalue("observed")


def chosen(target: Target) -> Mapping[str, str]:
    """The phase's dashboard shows one phase: the one that has what the panel is about."""
    if target.uid != "spanbus-phase":
        return ALL
    return {
        **EVERYWHERE,
        "project": "spanbus",
        "workflow": "standard",
        "phase": "tests" if target.panel == "Last success" else "fast_hooks",
    }


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_a_query_returns_data(lived: Lived, target: Target, request: pytest.FixtureRequest) -> None:
    live(target.uid, request)
    expr = filled(target.expr, chosen(target))
    found = cast("list[dict[str, str]]", eventually(lambda: lived.labels(target, expr)))
    [panel] = [
        panel
        for panel in panels(target.uid)
        if panel["title"] == target.panel and panel["type"] == target.kind
    ]
    [legend] = [
        str(each["legendFormat"])
        for each in cast("list[Json]", panel["targets"])
        if each["refId"] == target.ref
    ]
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert all(label in labels for labels in found), f"the legend asks for {label}"


@pytest.mark.parametrize("uid", UIDS)
def test_a_variable_has_values(lived: Lived, uid: str, request: pytest.FixtureRequest) -> None:
    live(uid, request)
    found: dict[str, set[str]] = {}
    overview = uid == "spanbus-overview"
    for variable in variables(uid):
        selector, label = variable_query(variable)
        question = urllib.parse.urlencode(
            {
                "match[]": filled(
                    selector, {"workflow": "standard", "project": ".+" if overview else "spanbus"}
                ),
                "start": time.time() - RANGE_S,
                "end": time.time(),
            }
        )
        url = f"{lived.stack.prometheus_url}/api/v1/label/{label}/values?{question}"
        found[str(variable["name"])] = set(
            cast("list[str]", eventually(lambda url=url: cast("Json", get(url) or {}).get("data")))
        )
    if "workflow" in found:
        assert {"standard", "other"} <= found["workflow"]
        assert ("payments" in found["workflow"]) == overview
        assert {"spanbus", "payments"} <= found["project"]
        assert found["environment"] == {"test"}
        assert found["branch"] == {"main"}
    if "phase" in found:
        assert found["phase"] == {"fast_hooks", "cleaning", "comprehensive", "tests"}
    if "group" in found:
        assert found["group"] == {"main"}
    if "service" in found:
        assert {"spanbus", "payments"} <= found["service"]


def tables() -> list[tuple[str, Json]]:
    return [(uid, panel) for uid in UIDS for panel in panels(uid) if panel["type"] == "table"]


@pytest.mark.parametrize(
    ("uid", "panel"), tables(), ids=[f"{uid}: {panel['title']}" for uid, panel in tables()]
)
def test_the_columns_of_a_table_come_from_its_queries(lived: Lived, uid: str, panel: Json) -> None:
    merge, organize = cast("list[Json]", panel["transformations"])
    assert merge["id"] == "merge"
    mine = [
        target
        for target in TARGETS
        if (target.uid, target.panel, target.kind) == (uid, panel["title"], "table")
    ]
    columns = {"Time"} | (
        {f"Value #{target.ref}" for target in mine} if len(mine) > 1 else {"Value"}
    )

    def seen() -> set[str]:
        return {
            label
            for target in mine
            for labels in lived.labels(target, filled(target.expr, ALL))
            for label in labels
        }

    options = cast("dict[str, Json]", organize["options"])
    named = set(options["renameByName"])
    # Only an alert about lost telemetry has a reason; Grafana writes `Value` where only one of several queries has an answer.
    wanted = named - {"reason", "Value"}
    eventually(lambda: wanted <= columns | seen())
    assert seen() | columns <= named | set(options["excludeByName"]), "a column that nobody named"
    titles = set(options["renameByName"].values())
    for override in cast("list[Json]", cast("Json", panel["fieldConfig"])["overrides"]):
        assert cast("Json", override["matcher"])["options"] in titles


def value_of(lived: Lived, uid: str, panel: str, **values: str) -> float | None:
    [target] = [
        target
        for target in TARGETS
        if (target.uid, target.panel, target.kind) == (uid, panel, "stat")
    ]
    project = {"project": "spanbus"} if uid == "spanbus-phase" else {}
    return lived.stack.value(filled(target.expr, {**EVERYWHERE, **project, **values}))


@pytest.mark.parametrize(
    ("panel", "fast_hooks", "tests"),
    [
        ("State", 1, 0), ("Runs", 2, 2), ("Failures", 2, 0), ("Success ratio", 0, 1), ("Retries", 0, 1), ("Attempts per run", 1, 1.5),
    ],
)  # fmt: skip
def test_the_numbers_of_a_phase_are_those_of_its_runs(
    lived: Lived, panel: str, fast_hooks: float, tests: float
) -> None:
    for phase, expected in (("fast_hooks", fast_hooks), ("tests", tests)):
        eventually(
            lambda phase=phase, expected=expected: (
                value_of(lived, "spanbus-phase", panel, workflow="standard", phase=phase)
                == expected
            )
        )


def test_the_numbers_of_a_workflow_are_those_of_its_runs(lived: Lived) -> None:
    def shown(panel: str, workflow: str) -> float | None:
        return value_of(lived, "spanbus-overview", panel, workflow=workflow)

    eventually(
        lambda: (
            (
                shown("Runs", "standard"),
                shown("Success ratio", "standard"),
                shown("Failing now", "standard"),
            )
            == (2, 0, 1)
        )
    )
    eventually(
        lambda: (
            (shown("Runs", "other"), shown("Success ratio", "other"), shown("Failing now", "other"))
            == (9, 1, None)
        )
    )
    eventually(lambda: shown("In progress", "payments") == 1)
    last_run_ms = shown("Last run", "other")
    assert last_run_ms is not None and 0 <= time.time() - last_run_ms / 1000 < 600


def test_what_was_lost_is_counted_once(lived: Lived) -> None:
    def shown(panel: str, name: str) -> float:
        return value_of(lived, "spanbus-delivery", panel, service=name) or 0

    eventually(lambda: shown("Events not on a span", "payments") == 500 + 2 - 120)
    eventually(lambda: shown("Refused", "refused") >= 1 and shown("Dropped", "crowded") >= 1)
    assert shown("Dropped", "payments") == shown("Refused", "payments") == 0


def test_the_bars_of_a_graph_add_up_to_what_happened(lived: Lived) -> None:
    [bars] = [
        target
        for target in TARGETS
        if (target.uid, target.panel) == ("spanbus-phase", "Runs by result")
    ]
    expr = filled(
        bars.expr,
        {**EVERYWHERE, "project": "spanbus", "workflow": "standard", "phase": "fast_hooks"},
    )
    eventually(
        lambda: (
            [(labels, sum(values)) for labels, values in lived.over_time(expr)]
            == [({"cicd_pipeline_task_run_result": "failure"}, 2)]
        )
    )


def test_the_heat_map_holds_every_run_and_leads_to_its_trace(lived: Lived) -> None:
    [heatmap] = [target for target in TARGETS if target.kind == "heatmap"]
    expr = filled(
        heatmap.expr,
        {**EVERYWHERE, "project": "spanbus", "workflow": "standard", "phase": "tests"},
    )
    eventually(
        lambda: (
            {labels["le"]: sum(values) for labels, values in lived.over_time(expr)}.get("+Inf") == 2
        )
    )
    question = urllib.parse.urlencode(
        {"query": expr, "start": time.time() - RANGE_S, "end": time.time() + 60}
    )
    url = f"{lived.stack.prometheus_url}/api/v1/query_exemplars?{question}"

    def exemplars() -> set[str]:
        found = cast("list[Json]", cast("Json", get(url) or {}).get("data") or [])
        return {
            cast("dict[str, str]", each["labels"])["trace_id"]
            for series in found
            for each in cast("list[Json]", series["exemplars"])
        }

    # `trace_id` is the label that deploy/grafana/provisioning sends to Jaeger; that the traces were there was seen
    # before Jaeger went.
    shown = cast("set[str]", eventually(exemplars))
    assert shown <= lived.traces


@pytest.mark.parametrize(
    "target", [target for target in TARGETS if target.exemplar], ids=lambda target: target.name
)
def test_a_query_with_exemplars_gets_some(lived: Lived, target: Target) -> None:
    question = urllib.parse.urlencode(
        {
            "query": filled(target.expr, chosen(target)),
            "start": time.time() - RANGE_S,
            "end": time.time() + 60,
        }
    )
    eventually(
        lambda: cast(
            "Json", get(f"{lived.stack.prometheus_url}/api/v1/query_exemplars?{question}") or {}
        ).get("data")
    )


# --- counts that survive births, restarts, gaps --------------------------------------------------------------------------


def expression(uid: str, panel: str) -> str:
    [target] = [target for target in TARGETS if (target.uid, target.panel) == (uid, panel)]
    return filled(
        target.expr,
        {
            "project": "spanbus",
            "environment": ".*",
            "branch": ".*",
            "workflow": "w",
            "phase": "p",
            "__range": "30m",
            "__interval": "5m",
        },
    )


def promtool(tmp_path: Path, values: str, checks: Sequence[tuple[str, str, float | None]]) -> None:
    """Each check: a moment, an expression, its one value."""
    series = 'spanbus_phase_failures_total{cicd_pipeline_name="w", cicd_pipeline_task_name="p", job="spanbus"}'
    document = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values}],
                "promql_expr_test": [
                    {
                        "expr": expr,
                        "eval_time": moment,
                        "exp_samples": []
                        if value is None
                        else [{"labels": labels, "value": value}],
                    }
                    for moment, expr, value in checks
                    for labels in [
                        '{cicd_pipeline_name="w", cicd_pipeline_task_name="p", job="spanbus"}'
                        if "sum by" in expr
                        else "{}"
                    ]
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [binary("promtool"), "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_counter_that_is_born_at_one_counts_one(tmp_path: Path) -> None:
    total, bar = (
        expression("spanbus-phase", "Failures"),
        expression("spanbus-overview", "Failures by phase"),
    )
    promtool(
        tmp_path,
        "_x10 1x60",
        [
            ("9m", total, None),
            ("12m", total, 1),
            ("12m", bar, 1),
            ("20m", bar, None),
            ("35m", total, 1),
            ("45m", total, 0),
        ],
    )


def test_a_burst_is_counted_whole(tmp_path: Path) -> None:
    total, bar = (
        expression("spanbus-phase", "Failures"),
        expression("spanbus-overview", "Failures by phase"),
    )
    promtool(
        tmp_path,
        "5x19 42x60",
        [("22m", total, 42), ("22m", bar, 37), ("45m", total, 37), ("60m", total, 0)],
    )


def test_a_restart_of_the_collector_counts_what_came_after_it(tmp_path: Path) -> None:
    total, bar = (
        expression("spanbus-phase", "Failures"),
        expression("spanbus-overview", "Failures by phase"),
    )
    promtool(tmp_path, "40x40 _x10 2x60", [("52m", total, 2), ("52m", bar, 2), ("60m", bar, None)])


def test_a_gap_in_the_scrapes_counts_nothing_twice(tmp_path: Path) -> None:
    total, bar = (
        expression("spanbus-phase", "Failures"),
        expression("spanbus-overview", "Failures by phase"),
    )
    promtool(
        tmp_path,
        "3x40 _x10 4x60",
        [("47m", total, 0), ("52m", total, 1), ("52m", bar, 1), ("60m", bar, None)],
    )


def test_no_branch_hides_another(tmp_path: Path) -> None:
    """`main` failed, then `other` passed: two rows with a last result of their own, and the phase of `main` is failing."""
    labels = 'cicd_pipeline_name="w", job="shop", vcs_ref_head_name='
    values = {**ALL, "project": "shop", "phase": "p"}
    [last] = [
        target.expr
        for target in TARGETS
        if (target.uid, target.panel) == ("spanbus-overview", "Workflows") and "topk" in target.expr
    ]
    [state] = [
        target.expr
        for target in TARGETS
        if (target.uid, target.panel) == ("spanbus-phase", "State")
    ]
    failed, passed = f'{labels}"main"', f'{labels}"other"'
    gauge, phase = "spanbus_workflow_last_run_timestamp_seconds", "spanbus:phase_last"
    document = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'{gauge}{{{failed}, cicd_pipeline_result="failure"}}', "values": "60x9"},
                    {"series": f'{gauge}{{{passed}, cicd_pipeline_result="success"}}', "values": "120x9"},
                    {"series": f'{phase}_failure:timestamp{{{failed}, cicd_pipeline_task_name="p"}}', "values": "60x9"},
                    {"series": f'{phase}_success:timestamp{{{passed}, cicd_pipeline_task_name="p"}}', "values": "120x9"},
                ],
                "promql_expr_test": [
                    {
                        "expr": filled(last, values),
                        "eval_time": "5m",
                        "exp_samples": [
                            {"labels": f'{{{failed}, cicd_pipeline_result="failure"}}', "value": 60_000},
                            {"labels": f'{{{passed}, cicd_pipeline_result="success"}}', "value": 120_000},
                        ],
                    },
                    *(
                        {
                            "expr": filled(state, {**values, "workflow": "w", "branch": branch}),
                            "eval_time": "5m",
                            "exp_samples": [{"labels": "{}", "value": value}],
                        }
                        for branch, value in ((".*", 1), ("main", 1), ("other", 0))
                    ),
                ],
            }
        ],
    }  # fmt: skip
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [binary("promtool"), "test", "rules", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
