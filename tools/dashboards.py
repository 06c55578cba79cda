"""Write the Grafana dashboards of deploy/grafana/dashboards from the catalogue.

    python tools/dashboards.py [--check] [--folder FOLDER]

``--check`` writes nothing: exit code 1 when a file is out of date. Names of metrics and labels come from
``spanbus._semantics.names``, so that a dashboard cannot query a metric that does not exist.

Counters of short-lived processes begin at 1, which ``increase()`` does not see. So growth is the difference of
deploy/prometheus/rules.yml: the value now minus the value before, or all of it where there was no value before. After a restart
of the collector, or two hours without a run, a counter is another series.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from spanbus._semantics import ErrorType, Result, names

Json = dict[str, object]
FOLDER: Final = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboards"
SCHEMA_VERSION: Final = 42
PROMETHEUS: Final[Json] = {"type": "prometheus", "uid": "prometheus"}
WIDTH: Final = 24

# --- the catalogue, in Prometheus' spelling -----------------------------------------------------------------------------

_SERIES = {metric.name: metric.prometheus for metric in names.METRICS}


def label(attribute: str) -> str:
    return attribute.replace(".", "_")


JOB, ENVIRONMENT, BRANCH = "job", "deployment_environment_name", "vcs_ref_head_name"
WORKFLOW, PHASE = label(names.PIPELINE_NAME), label(names.TASK_NAME)
QUEUE = label(names.QUEUE_NAME)
RUN_RESULT, PHASE_RESULT, ERROR_TYPE = (
    label(names.PIPELINE_RESULT),
    label(names.TASK_RESULT),
    label(names.ERROR_TYPE),
)
SIGNAL, REASON, OUTCOME = (
    label(names.DELIVERY_SIGNAL),
    label(names.DELIVERY_REASON),
    label(names.EVENT_OUTCOME),
)
GROUP, INSTANCE, PARTITIONS = label(names.OBSERVE_GROUP), "instance", 64
FAILED = "|".join(result for result in Result if result.failed)
UNDECIDED = f"{Result.SKIP}|{Result.CANCELLATION}"  # neither a success nor a failure

# Recording rules of deploy/prometheus/rules.yml.
FAILURES_15M = "spanbus:phase_failures:15m"
LAST_FAILURE, LAST_SUCCESS = (
    "spanbus:phase_last_failure:timestamp",
    "spanbus:phase_last_success:timestamp",
)
WORKFLOW_LAST_RUN = "spanbus:workflow_last_run:timestamp"
PHASE_P95_1H = "spanbus:phase_duration:p95_1h"
QUEUE_P95_15M = "spanbus:queue_wait:p95_15m"

# The limits of deploy/prometheus/alerts.yml, so that a panel turns red when its alert fires.
PHASE_SLOW_S = 600
OBSERVER_LAG_S, CHECKPOINT_AGE_S, CLOCK_OFFSET_S = 300, 120, 1
QUEUE_WAIT_S = 60
BEFORE = "135m"
"""Lookback for the value before: a little longer than the collector keeps a series without points."""
FAILURE_BUDGET = 0.1


def of(metric: str, *matchers: str, part: Literal["", "_bucket", "_count", "_sum"] = "") -> str:
    """A selector of a metric of the catalogue."""
    return f"{_SERIES[metric]}{part}" + (f"{{{', '.join(matchers)}}}" if matchers else "")


def rule(name: str, *matchers: str) -> str:
    return f"{name}{{{', '.join(matchers)}}}"


def in_range(selector: str) -> str:
    """The growth of each counter in the dashboard's time range."""
    last = f"last_over_time({selector}[$__range])"
    return f"(({last} - last_over_time({selector}[{BEFORE}] offset $__range)) >= 0 or {last})"


def in_step(selector: str) -> str:
    """The growth of each counter from point to point."""
    last = f"last_over_time({selector}[$__interval])"
    return f"(({last} - last_over_time({selector}[{BEFORE}] offset $__interval)) >= 0 or {last})"


def quantile(share: float, buckets: str, *by: str) -> str:
    """The expression without NaN values."""
    return f"histogram_quantile({share:g}, sum by ({', '.join(('le', *by))}) ({buckets})) >= 0"


def failing(*matchers: str) -> str:
    """The last failure of phases that have not succeeded since; the condition of WorkflowPhaseFailing."""
    failure, success = rule(LAST_FAILURE, *matchers), rule(LAST_SUCCESS, *matchers)
    return f"(({failure} > {success}) or ({failure} unless {success}))"


# --- dashboards as data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """One target of a panel. ``instant``: one value at the end of the range."""

    expr: str
    legend: str = ""
    instant: bool = False
    form: Literal["time_series", "table", "heatmap"] = "time_series"
    exemplar: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; ``width`` of 24. ``thresholds`` are colours with the value from which they apply, the first from -∞."""

    kind: Literal["stat", "timeseries", "heatmap", "table", "bargauge", "row"]
    title: str
    description: str
    queries: tuple[Query, ...]
    width: int
    unit: str = "short"
    decimals: int | None = None
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),)
    colored: bool = False
    nothing: str | None = None
    mappings: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    custom: Mapping[str, object] = field(default_factory=dict[str, object])
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    largest: float | None = None


@dataclass(frozen=True)
class Variable:
    """A variable at the top of a dashboard, filled by a query."""

    name: str
    title: str
    query: str
    several: bool
    all_of_them: str = ".+"
    """The value of the choice "all"; ``.*`` for a label that some series lack."""


@dataclass(frozen=True)
class Dashboard:
    """``rows``: panels side by side, with their height."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[tuple[int, tuple[Panel, ...]], ...]
    since: str = "now-24h"


# --- kinds of panels ----------------------------------------------------------------------------------------------------

_RESULT_COLOURS = {
    Result.SUCCESS: "green",
    Result.FAILURE: "red",
    Result.TIMEOUT: "orange",
    Result.ERROR: "dark-red",
    Result.CANCELLATION: "purple",
    Result.SKIP: "text",
}
_BARS: Json = {
    "drawStyle": "bars",
    "barAlignment": -1,
    "fillOpacity": 80,
    "lineWidth": 0,
    "stacking": {"mode": "normal", "group": "A"},
    "axisSoftMin": 0,
}
_LINES: Json = {
    "drawStyle": "line",
    "lineWidth": 1,
    "fillOpacity": 8,
    "showPoints": "auto",
    "pointSize": 6,
    "spanNulls": True,
    "axisSoftMin": 0,
}
_RATIO = (("red", None), ("orange", 1 - FAILURE_BUDGET), ("green", 0.99))
_NONE_IS_GOOD = (("green", None), ("red", 1.0))


def stat(
    title: str,
    description: str,
    expr: str,
    width: int,
    *,
    unit: str = "short",
    nothing: str | None = None,
    colored: bool = True,
    thresholds: tuple[tuple[str, float | None], ...] = (("text", None),),
    decimals: int | None = None,
    mappings: Mapping[str, tuple[str, str]] | None = None,
) -> Panel:
    return Panel(
        "stat",
        title,
        description,
        (Query(expr, instant=True),),
        width,
        unit,
        decimals,
        thresholds,
        colored,
        nothing,
        mappings or {},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "value",
            "wideLayout": True,
            "showPercentChange": False,
        },
    )


def _graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    custom: Json,
    unit: str,
    overrides: tuple[Json, ...],
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),),
) -> Panel:
    return Panel(
        "timeseries",
        title,
        description,
        tuple(queries),
        width,
        unit,
        thresholds=thresholds,
        custom=custom,
        overrides=overrides,
        options={
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc", "hideZeros": True},
        },
    )


def bars(
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    *,
    unit: str = "short",
    overrides: tuple[Json, ...] = (),
) -> Panel:
    return _graph(title, description, queries, width, _BARS, unit, overrides)


def lines(
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    *,
    unit: str = "short",
    limit: float | None = None,
) -> Panel:
    custom = {**_LINES, "thresholdsStyle": {"mode": "line" if limit is not None else "off"}}
    return _graph(
        title,
        description,
        queries,
        width,
        custom,
        unit,
        (),
        (("green", None), ("red", limit)) if limit is not None else (("green", None),),
    )


def table(
    title: str,
    description: str,
    queries: Sequence[Query],
    width: int,
    names_of: Mapping[str, str],
    overrides: tuple[Json, ...] = (),
    *,
    hidden: Sequence[str] = (),
    sort_by: str | None = None,
    nothing: str | None = None,
) -> Panel:
    """Instant queries side by side: rows are what their labels have in common. ``names_of``: columns as a reader
    knows them, in order.
    """
    return Panel(
        "table",
        title,
        description,
        tuple(queries),
        width,
        nothing=nothing,
        custom={"align": "auto", "filterable": False, "cellOptions": {"type": "auto"}},
        options={
            "cellHeight": "sm",
            "showHeader": True,
            "sortBy": [{"displayName": sort_by, "desc": True}] if sort_by else [],
        },
        overrides=overrides,
        transformations=(
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": dict.fromkeys(("Time", *hidden), True),
                    "indexByName": {name: place for place, name in enumerate(names_of)},
                    "renameByName": dict(names_of),
                    "includeByName": {},
                },
            },
        ),
    )


def bar_gauge(
    title: str,
    description: str,
    query: Query,
    width: int,
    *,
    unit: str,
    thresholds: tuple[tuple[str, float | None], ...] = (("green", None),),
    overrides: tuple[Json, ...] = (),
) -> Panel:
    return Panel(
        "bargauge",
        title,
        description,
        (query,),
        width,
        unit,
        thresholds=thresholds,
        colored=True,
        overrides=overrides,
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "displayMode": "basic",
            "orientation": "horizontal",
            "valueMode": "color",
            "namePlacement": "auto",
            "showUnfilled": True,
            "sizing": "auto",
            "minVizHeight": 16,
            "minVizWidth": 8,
            "maxVizHeight": 64,
        },
    )


def heading(title: str) -> Panel:
    return Panel("row", title, "", (), WIDTH)


def by_name(name: str, **properties: object) -> Json:
    """Overrides of one column or series; two underscores stand for a dot."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [
            {"id": key.replace("__", "."), "value": value} for key, value in properties.items()
        ],
    }


def fixed(colour: str) -> Json:
    return {"mode": "fixed", "fixedColor": colour}


RESULT_COLOURS = tuple(
    by_name(result.value, color=fixed(colour)) for result, colour in _RESULT_COLOURS.items()
)
RESULT_MAPPINGS: list[Json] = [
    {
        "type": "value",
        "options": {
            result.value: {"index": place, "color": colour}
            for place, (result, colour) in enumerate(_RESULT_COLOURS.items())
        },
    }
]


def link(title: str, url: str) -> list[Json]:
    return [{"title": title, "url": url, "targetBlank": False}]


def thresholds(*steps: tuple[str, float | None]) -> Json:
    return {
        "mode": "absolute",
        "steps": [{"color": colour, "value": value} for colour, value in steps],
    }


# --- workflows at a glance ----------------------------------------------------------------------------------------------

_PLACE = (f'{ENVIRONMENT}=~"$environment"', f'{BRANCH}=~"$branch"')
_ANY = ", ".join((f'{JOB}=~"$project"', *_PLACE, f'{WORKFLOW}=~"$workflow"'))
_OF_WORKFLOW = (JOB, ENVIRONMENT, BRANCH, WORKFLOW)
_OF_PHASE = (*_OF_WORKFLOW, PHASE)
_BY_WORKFLOW, _BY_PHASE = ", ".join(_OF_WORKFLOW), ", ".join(_OF_PHASE)
_NAMED_WORKFLOW = " ".join(f"{{{{{each}}}}}" for each in _OF_WORKFLOW)
_NAMED_PHASE = f"{_NAMED_WORKFLOW} / {{{{{PHASE}}}}}"
_WHERE = {JOB: "Project", ENVIRONMENT: "Environment", BRANCH: "Branch"}
_RUNS = of(names.RUN_DURATION, _ANY, part="_count")
_RUNS_DECIDED = of(names.RUN_DURATION, _ANY, f'{RUN_RESULT}!~"{UNDECIDED}"', part="_count")
_RUNS_GOOD = of(names.RUN_DURATION, _ANY, f'{RUN_RESULT}="{Result.SUCCESS}"', part="_count")
_RUN_BUCKETS = of(names.RUN_DURATION, _ANY, f'{RUN_RESULT}!~"{UNDECIDED}"', part="_bucket")
_PHASES_TRIED = of(names.PHASE_DURATION, _ANY, f'{PHASE_RESULT}!="{Result.SKIP}"', part="_count")
_TO_WORKFLOW = (
    "/d/spanbus-phase?${__url_time_range}&var-project=${__data.fields.Project:percentencode}"
    "&var-workflow=${__data.fields.Workflow:percentencode}"
)
_TO_PHASE = f"{_TO_WORKFLOW}&var-phase=${{__data.fields.Phase:percentencode}}"


_ENVIRONMENT = Variable(
    "environment", "Environment", f"label_values({WORKFLOW_LAST_RUN}, {ENVIRONMENT})", True, ".*"
)
# Empty where the collector does not count branches (COUNT_BRANCHES).
_BRANCH = Variable("branch", "Branch", f"label_values({WORKFLOW_LAST_RUN}, {BRANCH})", True, ".*")


def share(good: str, all_of_them: str, *by: str) -> str:
    """The share of successes without skips and cancellations; 0 if all failed, empty if there were none."""
    total = (
        f"sum by ({', '.join(by)}) ({in_range(all_of_them)})"
        if by
        else f"sum({in_range(all_of_them)})"
    )
    part = f"sum by ({', '.join(by)}) ({in_range(good)})" if by else f"sum({in_range(good)})"
    return f"({part} or 0 * {total}) / ({total} > 0)"


def overview() -> Dashboard:
    return Dashboard(
        "spanbus-overview",
        "spanbus: workflows",
        "All workflows: number of runs, success rate, duration, last run.",
        (
            Variable("project", "Project", f"label_values({WORKFLOW_LAST_RUN}, {JOB})", True),
            _ENVIRONMENT,
            _BRANCH,
            Variable(
                "workflow",
                "Workflow",
                f'label_values({WORKFLOW_LAST_RUN}{{{JOB}=~"$project"}}, {WORKFLOW})',
                True,
            ),
        ),
        (
            (
                4,
                (
                    stat(
                        "Runs",
                        "Runs that ended in the selected time range.",
                        f"sum({in_range(_RUNS)})",
                        3,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Success ratio",
                        "Successes among the runs that were neither cancelled nor skipped.",
                        share(_RUNS_GOOD, _RUNS_DECIDED),
                        4,
                        unit="percentunit",
                        thresholds=_RATIO,
                        nothing="–",
                        decimals=1,
                    ),
                    stat(
                        "Failing now",
                        "Phases whose last run failed, until their next success; WorkflowPhaseFailing.",
                        f"count({failing(_ANY)})",
                        3,
                        thresholds=_NONE_IS_GOOD,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "p50 of a run",
                        "Half of the runs took at most this long.",
                        quantile(0.5, in_range(_RUN_BUCKETS)),
                        3,
                        unit="s",
                        nothing="–",
                    ),
                    stat(
                        "p95 of a run",
                        "95 of 100 runs took at most this long.",
                        quantile(0.95, in_range(_RUN_BUCKETS)),
                        3,
                        unit="s",
                        nothing="–",
                    ),
                    stat(
                        "In progress",
                        "Runs in progress, of services only: a killed one-shot process would leave it at 1.",
                        f"sum({of(names.RUN_ACTIVE, _ANY)})",
                        3,
                        nothing="–",
                        decimals=0,
                    ),
                    stat(
                        "Last run",
                        "The end of the last run of all selected workflows.",
                        f"1000 * max({rule(WORKFLOW_LAST_RUN, _ANY)})",
                        5,
                        unit="dateTimeFromNow",
                        nothing="–",
                    ),
                ),
            ),
            (
                8,
                (
                    table(
                        "Failing now",
                        "Phases whose last failure is newer than their last success. The phase links to its dashboard.",
                        (
                            Query(f"1000 * {failing(_ANY)}", instant=True, form="table"),
                            Query(
                                f"1000 * ({rule(LAST_SUCCESS, _ANY)} and {failing(_ANY)})",
                                instant=True,
                                form="table",
                            ),
                        ),
                        12,
                        {
                            **_WHERE,
                            WORKFLOW: "Workflow",
                            PHASE: "Phase",
                            "Value": "Last failure",
                            "Value #A": "Last failure",
                            "Value #B": "Last success",
                        },
                        (
                            by_name("Phase", links=link("This phase in depth", _TO_PHASE)),
                            by_name("Last failure", unit="dateTimeFromNow"),
                            by_name(
                                "Last success",
                                unit="dateTimeFromNow",
                                noValue="never in the last 7 days",
                            ),
                        ),
                        sort_by="Last failure",
                        nothing="Nothing is failing.",
                    ),
                    table(
                        "Alerts",
                        "Alerts that Prometheus has sent to Alertmanager; runbooks are in docs/runbooks.",
                        (
                            Query(
                                f'ALERTS{{alertstate="firing", severity!="none", {JOB}=~"$project|collector", {ENVIRONMENT}=~"$environment|", {BRANCH}=~"$branch|", {WORKFLOW}=~"$workflow|"}}',
                                instant=True,
                                form="table",
                            ),
                        ),
                        12,
                        {
                            "alertname": "Alert",
                            "severity": "Severity",
                            **_WHERE,
                            WORKFLOW: "Workflow",
                            PHASE: "Phase",
                            "reason": "Reason",
                        },
                        (
                            by_name("Phase", links=link("This phase in depth", _TO_PHASE)),
                            by_name(
                                "Severity",
                                custom__cellOptions={"type": "color-text"},
                                mappings=[
                                    {
                                        "type": "value",
                                        "options": {
                                            "critical": {"index": 0, "color": "red"},
                                            "warning": {"index": 1, "color": "orange"},
                                        },
                                    },
                                ],
                            ),
                        ),
                        hidden=(
                            "Value",
                            "__name__",
                            "alertstate",
                            "instance",
                            "exporter",
                            "data_type",
                        ),
                        sort_by="Severity",
                        nothing="No alert is firing.",
                    ),
                ),
            ),
            (
                8,
                (
                    table(
                        "Workflows",
                        "Runs in the selected time range, and the result of each workflow's last run in the last 7 days.",
                        (
                            Query(
                                f"sum by ({_BY_WORKFLOW}) ({in_range(_RUNS)})",
                                instant=True,
                                form="table",
                            ),
                            Query(
                                share(_RUNS_GOOD, _RUNS_DECIDED, *_OF_WORKFLOW),
                                instant=True,
                                form="table",
                            ),
                            Query(
                                quantile(0.5, in_range(_RUN_BUCKETS), *_OF_WORKFLOW),
                                instant=True,
                                form="table",
                            ),
                            Query(
                                quantile(0.95, in_range(_RUN_BUCKETS), *_OF_WORKFLOW),
                                instant=True,
                                form="table",
                            ),
                            Query(
                                f"1000 * topk by ({_BY_WORKFLOW}) (1, max by ({_BY_WORKFLOW}, {RUN_RESULT}) (max_over_time({of(names.WORKFLOW_LAST_RUN, _ANY)}[7d])))",
                                instant=True,
                                form="table",
                            ),
                        ),
                        24,
                        {
                            **_WHERE,
                            WORKFLOW: "Workflow",
                            "Value #A": "Runs",
                            "Value #B": "Success ratio",
                            "Value #C": "p50",
                            "Value #D": "p95",
                            "Value #E": "Last run",
                            RUN_RESULT: "Last result",
                        },
                        (
                            by_name("Workflow", links=link("Its phases", _TO_WORKFLOW)),
                            by_name("Runs", decimals=0),
                            by_name(
                                "Success ratio",
                                unit="percentunit",
                                decimals=1,
                                thresholds=thresholds(*_RATIO),
                                custom__cellOptions={"type": "color-text"},
                            ),
                            by_name("p50", unit="s"),
                            by_name("p95", unit="s"),
                            by_name("Last run", unit="dateTimeFromNow"),
                            by_name(
                                "Last result",
                                mappings=RESULT_MAPPINGS,
                                custom__cellOptions={"type": "color-text"},
                            ),
                        ),
                        sort_by="Last run",
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Runs by result",
                        "Runs that ended, each counted once.",
                        (
                            Query(
                                f"sum by ({RUN_RESULT}) ({in_step(_RUNS)})", f"{{{{{RUN_RESULT}}}}}"
                            ),
                        ),
                        12,
                        overrides=RESULT_COLOURS,
                    ),
                    bars(
                        "Failures by phase",
                        "Phases that failed after all their attempts, each counted once.",
                        (
                            Query(
                                f"sum by ({_BY_PHASE}) ({in_step(of(names.PHASE_FAILURES, _ANY))}) > 0",
                                _NAMED_PHASE,
                            ),
                        ),
                        12,
                    ),
                ),
            ),
            (
                8,
                (
                    lines(
                        "Duration of a run",
                        "p50 and p95 of the runs that ended between two points. A diamond is one run: it opens its trace.",
                        (
                            Query(
                                quantile(0.5, in_step(_RUN_BUCKETS), *_OF_WORKFLOW),
                                f"{_NAMED_WORKFLOW} p50",
                            ),
                            Query(
                                quantile(0.95, in_step(_RUN_BUCKETS), *_OF_WORKFLOW),
                                f"{_NAMED_WORKFLOW} p95",
                                exemplar=True,
                            ),
                        ),
                        12,
                        unit="s",
                    ),
                    bar_gauge(
                        "Slowest phases",
                        f"p95 of the last hour of the ten slowest phases; PhaseSlow fires above {PHASE_SLOW_S} s.",
                        Query(
                            f"topk(10, {rule(PHASE_P95_1H, _ANY)})",
                            _NAMED_PHASE,
                            instant=True,
                        ),
                        12,
                        unit="s",
                        thresholds=(
                            ("green", None),
                            ("orange", PHASE_SLOW_S / 2),
                            ("red", float(PHASE_SLOW_S)),
                        ),
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Failed runs by error",
                        f"A class name, or one of {', '.join(ErrorType)}.",
                        (
                            Query(
                                f"sum by ({ERROR_TYPE}) ({in_step(of(names.RUN_ERRORS, _ANY))}) > 0",
                                f"{{{{{ERROR_TYPE}}}}}",
                            ),
                        ),
                        12,
                    ),
                    table(
                        "Phases",
                        "Runs of phases in the selected time range.",
                        (
                            Query(
                                f"sum by ({_BY_PHASE}) ({in_range(_PHASES_TRIED)})",
                                instant=True,
                                form="table",
                            ),
                            Query(
                                f"sum by ({_BY_PHASE}) ({in_range(of(names.PHASE_FAILURES, _ANY))})",
                                instant=True,
                                form="table",
                            ),
                            Query(
                                f"sum by ({_BY_PHASE}) ({in_range(of(names.PHASE_RETRIES, _ANY))})",
                                instant=True,
                                form="table",
                            ),
                        ),
                        12,
                        {
                            **_WHERE,
                            WORKFLOW: "Workflow",
                            PHASE: "Phase",
                            "Value #A": "Runs",
                            "Value #B": "Failures",
                            "Value #C": "Retries",
                        },
                        (
                            by_name("Phase", links=link("This phase in depth", _TO_PHASE)),
                            by_name("Runs", decimals=0),
                            by_name(
                                "Failures",
                                decimals=0,
                                thresholds=thresholds(*_NONE_IS_GOOD),
                                custom__cellOptions={"type": "color-text"},
                            ),
                            by_name("Retries", decimals=0),
                        ),
                        sort_by="Failures",
                    ),
                ),
            ),
        ),
    )


# --- one phase in depth -------------------------------------------------------------------------------------------------

_IN = f'{JOB}="$project", {WORKFLOW}="$workflow"'
_THIS = (
    f'{JOB}="$project"',
    *_PLACE,
    f'{WORKFLOW}="$workflow"',
    f'{PHASE}="$phase"',
)
_ENDED = of(names.PHASE_DURATION, *_THIS, part="_count")
_TRIED = of(names.PHASE_DURATION, *_THIS, f'{PHASE_RESULT}!="{Result.SKIP}"', part="_count")
_DECIDED = of(names.PHASE_DURATION, *_THIS, f'{PHASE_RESULT}!~"{UNDECIDED}"', part="_count")
_GOOD = of(names.PHASE_DURATION, *_THIS, f'{PHASE_RESULT}="{Result.SUCCESS}"', part="_count")
_BAD = of(names.PHASE_DURATION, *_THIS, f'{PHASE_RESULT}=~"{FAILED}"', part="_count")
_QUEUED = of(names.QUEUE_WAITS, *_THIS, part="_bucket")
_BUCKETS = of(names.PHASE_DURATION, *_THIS, f'{PHASE_RESULT}!~"{UNDECIDED}"', part="_bucket")
_RETRIES, _FAILURES = of(names.PHASE_RETRIES, *_THIS), of(names.PHASE_FAILURES, *_THIS)


def phase() -> Dashboard:
    failure, success = rule(LAST_FAILURE, *_THIS), rule(LAST_SUCCESS, *_THIS)
    return Dashboard(
        "spanbus-phase",
        "spanbus: one phase",
        "One phase of one workflow: duration, failures, retries; slow runs link to their traces.",
        (
            Variable("project", "Project", f"label_values({WORKFLOW_LAST_RUN}, {JOB})", False),
            _ENVIRONMENT,
            _BRANCH,
            Variable(
                "workflow",
                "Workflow",
                f'label_values({WORKFLOW_LAST_RUN}{{{JOB}="$project"}}, {WORKFLOW})',
                False,
            ),
            # The counter has every phase; the rule keeps those of an alert after a restart of the collector.
            Variable(
                "phase",
                "Phase",
                f'label_values({{__name__=~"{_SERIES[names.PHASE_FAILURES]}|{LAST_FAILURE}", {_IN}}}, {PHASE})',
                False,
            ),
        ),
        (
            (
                4,
                (
                    stat(
                        "State",
                        "Failing: the last failure is newer than the last success, in one of the selected environments and branches; WorkflowPhaseFailing.",
                        f"max(({failure} > bool {success}) or 0 * {success} or 0 * {failure} + 1)",
                        3,
                        thresholds=_NONE_IS_GOOD,
                        nothing="–",
                        mappings={"0": ("good", "green"), "1": ("failing", "red")},
                    ),
                    stat(
                        "Runs",
                        "Runs of the phase in the selected time range, without skipped ones.",
                        f"sum({in_range(_TRIED)})",
                        2,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Failures",
                        "Failures after all attempts.",
                        f"sum({in_range(_FAILURES)})",
                        2,
                        thresholds=_NONE_IS_GOOD,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Success ratio",
                        f"Successes among those that were neither cancelled nor skipped. PhaseFailureBudgetBurn fires below {1 - FAILURE_BUDGET:.0%}.",
                        share(_GOOD, _DECIDED),
                        3,
                        unit="percentunit",
                        thresholds=_RATIO,
                        nothing="–",
                        decimals=1,
                    ),
                    stat(
                        "Retries",
                        "Attempts after the first.",
                        f"sum({in_range(_RETRIES)})",
                        2,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Attempts per run",
                        "1 when nothing is ever tried again.",
                        f"1 + sum({in_range(_RETRIES)}) / (sum({in_range(_TRIED)}) > 0)",
                        2,
                        nothing="–",
                        decimals=2,
                        thresholds=(("text", None), ("orange", 1.2)),
                    ),
                    stat(
                        "p50",
                        "Half of the runs of this phase took at most this long, all attempts together.",
                        quantile(0.5, in_range(_BUCKETS)),
                        2,
                        unit="s",
                        nothing="–",
                    ),
                    stat(
                        "p95",
                        f"95 of 100 took at most this long; PhaseSlow fires above {PHASE_SLOW_S} s.",
                        quantile(0.95, in_range(_BUCKETS)),
                        2,
                        unit="s",
                        nothing="–",
                        thresholds=(("text", None), ("red", float(PHASE_SLOW_S))),
                    ),
                    stat(
                        "Last success",
                        "In the last 7 days.",
                        f"1000 * max({success})",
                        3,
                        unit="dateTimeFromNow",
                        nothing="–",
                    ),
                    stat(
                        "Last failure",
                        "In the last 7 days.",
                        f"1000 * max({failure})",
                        3,
                        unit="dateTimeFromNow",
                        nothing="–",
                    ),
                ),
            ),
            (
                10,
                (
                    Panel(
                        "heatmap",
                        "Durations",
                        "Runs by duration. A point is one run: it opens its trace in Jaeger.",
                        (
                            Query(
                                f"sum by (le) ({in_step(_BUCKETS)})",
                                "{{le}}",
                                form="heatmap",
                                exemplar=True,
                            ),
                        ),
                        16,
                        "s",
                        custom={
                            "hideFrom": {"legend": False, "tooltip": False, "viz": False},
                            "scaleDistribution": {"type": "linear"},
                        },
                        options={
                            "calculate": False,
                            "cellGap": 1,
                            "cellValues": {"unit": "short", "decimals": 0},
                            "exemplars": {"color": "rgba(255,0,255,0.7)"},
                            "color": {
                                "mode": "scheme",
                                "scheme": "Oranges",
                                "scale": "exponential",
                                "exponent": 0.5,
                                "steps": 64,
                                "reverse": False,
                                "fill": "dark-orange",
                            },
                            "filterValues": {"le": 1e-9},
                            "legend": {"show": True},
                            "rowsFrame": {"layout": "auto"},
                            "showValue": "never",
                            "tooltip": {
                                "mode": "single",
                                "showColorScale": False,
                                "yHistogram": True,
                            },
                            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
                        },
                    ),
                    bar_gauge(
                        "How it ended",
                        "Runs in the selected time range, by result.",
                        Query(
                            f"sum by ({PHASE_RESULT}) ({in_range(_ENDED)})",
                            f"{{{{{PHASE_RESULT}}}}}",
                            instant=True,
                        ),
                        8,
                        unit="short",
                        overrides=RESULT_COLOURS,
                    ),
                ),
            ),
            (
                8,
                (
                    lines(
                        "Duration",
                        "Of runs that ended between two points, with all attempts. A diamond is one run: it opens its trace.",
                        (
                            Query(quantile(0.5, in_step(_BUCKETS)), "p50"),
                            Query(quantile(0.95, in_step(_BUCKETS)), "p95", exemplar=True),
                            Query(quantile(0.99, in_step(_BUCKETS)), "p99"),
                        ),
                        12,
                        unit="s",
                    ),
                    bars(
                        "Runs by result",
                        "Each run of the phase counted once.",
                        (
                            Query(
                                f"sum by ({PHASE_RESULT}) ({in_step(_ENDED)})",
                                f"{{{{{PHASE_RESULT}}}}}",
                            ),
                        ),
                        12,
                        overrides=RESULT_COLOURS,
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Failures by error",
                        f"A class name, or one of {', '.join(ErrorType)}.",
                        (
                            Query(
                                f"sum by ({ERROR_TYPE}) ({in_step(_BAD)}) > 0",
                                f"{{{{{ERROR_TYPE}}}}}",
                            ),
                        ),
                        8,
                    ),
                    bars(
                        "Attempts",
                        "First attempts and retries; a retry that succeeds is no failure.",
                        (
                            Query(f"sum({in_step(_TRIED)})", "first"),
                            Query(f"sum({in_step(_RETRIES)})", "retry"),
                        ),
                        8,
                        overrides=(
                            by_name("first", color=fixed("blue")),
                            by_name("retry", color=fixed("orange")),
                        ),
                    ),
                    lines(
                        "Failures in 15 minutes",
                        "The expression of WorkflowPhaseFailed, which fires above 0.",
                        (Query(rule(FAILURES_15M, *_THIS), "failures"),),
                        8,
                        limit=1,
                    ),
                ),
            ),
            (
                7,
                (
                    lines(
                        "Wait in the queue",
                        "Seconds that tasks waited for a worker; for phases that a task queue executes.",
                        (
                            Query(
                                quantile(0.95, in_step(_QUEUED), QUEUE),
                                f"{{{{{QUEUE}}}}} p95",
                            ),
                        ),
                        24,
                        unit="s",
                    ),
                ),
            ),
        ),
    )


# --- delivery -----------------------------------------------------------------------------------------------------------

_JOB = f'{JOB}=~"$service", {ENVIRONMENT}=~"$environment"'
_NOT_KEPT = f'{OUTCOME}="dropped"'
_COLLECTOR = 'job="collector"'
_BY = f"{{{{{SIGNAL}}}}}"


def _rates(expressions: Iterable[tuple[str, str, str]]) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"sum by ({by}) (rate({metric}{{{_COLLECTOR}}}[$__rate_interval]))"
            if by
            else f"sum(rate({metric}{{{_COLLECTOR}}}[$__rate_interval]))",
            legend,
        )
        for metric, by, legend in expressions
    )


def _collector_step(metric: str, legend: str) -> Query:
    return Query(f"sum({in_step(f'{metric}{{{_COLLECTOR}}}')})", legend)


def delivery() -> Dashboard:
    dropped, rejected = of(names.DELIVERY_DROPPED_RECORDS, _JOB), of(names.DELIVERY_REJECTED, _JOB)
    return Dashboard(
        "spanbus-delivery",
        "spanbus: delivery",
        "Delivery of telemetry, by metrics of spanbus and of the collector.",
        (
            Variable(
                "service", "Service", f"label_values({of(names.DELIVERY_SPOOLED)}, job)", True
            ),
            _ENVIRONMENT,
        ),
        (
            (
                4,
                (
                    stat(
                        "Collector",
                        "Whether Prometheus reaches the collector; CollectorDown. While it is down, runs keep their telemetry in their spools.",
                        f"min(up{{{_COLLECTOR}}})",
                        3,
                        thresholds=(("red", None), ("green", 1.0)),
                        nothing="–",
                        mappings={"0": ("down", "red"), "1": ("up", "green")},
                    ),
                    stat(
                        "Collector up for",
                        "After a restart counters begin again, and gauges of runs are missing until the next run.",
                        f"max(otelcol_process_uptime{{{_COLLECTOR}}})",
                        3,
                        unit="s",
                        nothing="–",
                    ),
                    stat(
                        "Dropped",
                        "Records that could not be kept; TelemetryLost.",
                        f"sum({in_range(dropped)})",
                        3,
                        thresholds=_NONE_IS_GOOD,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Refused",
                        "Records that a destination refused for good.",
                        f"sum({in_range(rejected)})",
                        3,
                        thresholds=_NONE_IS_GOOD,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Events not on a span",
                        "Bus events that were counted and not kept: those between the first and the last 60 of a span, and late ones.",
                        f"sum({in_range(of(names.EVENTS, _JOB, _NOT_KEPT))})",
                        4,
                        nothing="0",
                        decimals=0,
                        thresholds=(("text", None), ("orange", 1.0)),
                    ),
                    stat(
                        "Waiting",
                        "Bytes in the spool, reported by the last process; a run reports just before it delivers.",
                        f"max({of(names.DELIVERY_SPOOL_SIZE, _JOB)})",
                        4,
                        unit="bytes",
                        nothing="–",
                    ),
                    stat(
                        "Waiting since",
                        "Age of the oldest waiting record, reported by the last process.",
                        f"max({of(names.DELIVERY_OLDEST_AGE, _JOB)})",
                        4,
                        unit="s",
                        nothing="–",
                        thresholds=(("text", None), ("orange", 300.0), ("red", 3600.0)),
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Spooled",
                        "Records written to the spool.",
                        (
                            Query(
                                f"sum by ({SIGNAL}) ({in_step(of(names.DELIVERY_SPOOLED, _JOB))})",
                                _BY,
                            ),
                        ),
                        8,
                    ),
                    bars(
                        "Delivered by services",
                        "Records that the destination acknowledged. Only services report this: a run counts before it delivers and then exits.",
                        (
                            Query(
                                f"sum by ({SIGNAL}) ({in_step(of(names.DELIVERY_DELIVERED, _JOB))})",
                                _BY,
                            ),
                        ),
                        8,
                    ),
                    bars(
                        "Lost",
                        "Dropped: could not be kept. Refused: by the destination.",
                        (
                            Query(
                                f"sum by ({SIGNAL}, {REASON}) ({in_step(dropped)}) > 0",
                                f"dropped {_BY}: {{{{{REASON}}}}}",
                            ),
                            Query(
                                f"sum by ({SIGNAL}, {REASON}) ({in_step(rejected)}) > 0",
                                f"refused {_BY}: {{{{{REASON}}}}}",
                            ),
                        ),
                        8,
                    ),
                ),
            ),
            (
                8,
                (
                    lines(
                        "Spool",
                        "Bytes that wait.",
                        (
                            Query(
                                f"max by ({JOB}, {ENVIRONMENT}) ({of(names.DELIVERY_SPOOL_SIZE, _JOB)})",
                                "{{job}} {{deployment_environment_name}}",
                            ),
                        ),
                        8,
                        unit="bytes",
                    ),
                    lines(
                        "Oldest record",
                        "The wait of the oldest record.",
                        (
                            Query(
                                f"max by ({JOB}, {ENVIRONMENT}) ({of(names.DELIVERY_OLDEST_AGE, _JOB)})",
                                "{{job}} {{deployment_environment_name}}",
                            ),
                        ),
                        8,
                        unit="s",
                    ),
                    bars(
                        "Bus events",
                        "Bus events, on a span or only counted.",
                        (
                            Query(
                                f"sum by ({OUTCOME}) ({in_step(of(names.EVENTS, _JOB))})",
                                f"{{{{{OUTCOME}}}}}",
                            ),
                        ),
                        8,
                        overrides=(
                            by_name("recorded", color=fixed("green")),
                            by_name("dropped", color=fixed("orange")),
                        ),
                    ),
                ),
            ),
            (1, (heading("Collector"),)),
            (
                8,
                (
                    lines(
                        "Taken in",
                        "Per second, of all clients.",
                        _rates(
                            (
                                ("otelcol_receiver_accepted_spans", "", "spans"),
                                ("otelcol_receiver_accepted_metric_points", "", "metric points"),
                                ("otelcol_receiver_accepted_log_records", "", "log records"),
                            )
                        ),
                        8,
                        unit="cps",
                    ),
                    lines(
                        "Passed on",
                        "Per second, to Jaeger and to the page that Prometheus reads.",
                        _rates(
                            (
                                ("otelcol_exporter_sent_spans", "exporter", "spans: {{exporter}}"),
                                (
                                    "otelcol_exporter_sent_metric_points",
                                    "exporter",
                                    "metric points: {{exporter}}",
                                ),
                            )
                        ),
                        8,
                        unit="cps",
                    ),
                    bars(
                        "Not taken, not passed on",
                        "Refused: the client keeps the records and retries. Failed or not queued: lost in the collector; TelemetryLost.",
                        (
                            _collector_step("otelcol_receiver_refused_spans", "refused spans"),
                            _collector_step(
                                "otelcol_receiver_refused_metric_points", "refused metric points"
                            ),
                            _collector_step("otelcol_receiver_failed_spans", "spans failed inside"),
                            _collector_step(
                                "otelcol_receiver_failed_metric_points",
                                "metric points failed inside",
                            ),
                            _collector_step("otelcol_exporter_send_failed_spans", "spans not sent"),
                            _collector_step(
                                "otelcol_exporter_enqueue_failed_spans", "spans not queued"
                            ),
                        ),
                        8,
                    ),
                ),
            ),
            (
                8,
                (
                    lines(
                        "Queue to Jaeger",
                        "Batches on disk while Jaeger is down, with the limit.",
                        (
                            Query(
                                f"sum by (exporter) (otelcol_exporter_queue_size{{{_COLLECTOR}}})",
                                "{{exporter}}",
                            ),
                            Query(
                                f"sum by (exporter) (otelcol_exporter_queue_capacity{{{_COLLECTOR}}})",
                                "limit of {{exporter}}",
                            ),
                        ),
                        8,
                    ),
                    lines(
                        "Memory",
                        "Resident; the memory limiter refuses above 400 MiB of heap.",
                        (Query(f"max(otelcol_process_memory_rss{{{_COLLECTOR}}})", "resident"),),
                        8,
                        unit="bytes",
                    ),
                    lines(
                        "Series",
                        "Series of one-shot runs that the collector counts, with the limit; StreamLimit fires at four fifths of it.",
                        (
                            Query(
                                f"max(otelcol_deltatocumulative_streams_tracked{{{_COLLECTOR}}})",
                                "kept",
                            ),
                            Query(
                                f"max(otelcol_deltatocumulative_streams_limit{{{_COLLECTOR}}})",
                                "limit",
                            ),
                        ),
                        8,
                    ),
                ),
            ),
        ),
        since="now-6h",
    )


# --- observers ----------------------------------------------------------------------------------------------------------

_IN_GROUP = (f'{GROUP}=~"$group"', f'{ENVIRONMENT}=~"$environment"')
_ANYWHERE = f'{ENVIRONMENT}=~"$environment"'
_TASKS_BEGUN = of(names.QUEUE_WAITS, _ANYWHERE, part="_count")
_OF_OBSERVER = f"{JOB}, {INSTANCE}"
_NAMED_OBSERVER = "{{job}} {{instance}}"


def _of_group(metric: str) -> str:
    return of(metric, *_IN_GROUP)


def _newest(metric: str) -> str:
    """The last value of each observer, as in the alerts: a process that is gone has none after three minutes."""
    return f"last_over_time({_of_group(metric)}[3m])"


def _each_observer(metric: str, legend: str = _NAMED_OBSERVER) -> Query:
    return Query(f"sum by ({_OF_OBSERVER}) ({in_step(_of_group(metric))})", legend)


def observers() -> Dashboard:
    return Dashboard(
        "spanbus-observers",
        "spanbus: observers",
        "Observers of the event stream: partitions, progress, losses; and the wait of tasks in their queues.",
        (
            Variable(
                "group",
                "Group",
                f"label_values({of(names.OBSERVE_PARTITIONS)}, {GROUP})",
                True,
            ),
            _ENVIRONMENT,
        ),
        (
            (
                4,
                (
                    stat(
                        "Partitions held",
                        "Partitions held, of 64 in each group; the group with the fewest; ObserversGone.",
                        f"min(sum by ({GROUP}, {ENVIRONMENT}) ({_newest(names.OBSERVE_PARTITIONS)}))",
                        4,
                        thresholds=(("red", None), ("green", PARTITIONS)),
                        nothing="–",
                        decimals=0,
                    ),
                    stat(
                        "Behind",
                        "Age of the last event that the slowest observer read; ObserversLag.",
                        f"max({_newest(names.OBSERVE_LAG)})",
                        4,
                        unit="s",
                        nothing="–",
                        thresholds=(("text", None), ("orange", 30), ("red", OBSERVER_LAG_S)),
                    ),
                    stat(
                        "Lost",
                        "Messages that the stream deleted before they were read; EventsLost.",
                        f"sum({in_range(_of_group(names.OBSERVE_LOST))})",
                        4,
                        thresholds=_NONE_IS_GOOD,
                        nothing="0",
                        decimals=0,
                    ),
                    stat(
                        "Oldest checkpoint",
                        "Telemetry since then would be doubled if the host were lost now; CheckpointStands.",
                        f"max({_newest(names.OBSERVE_CHECKPOINT_AGE)})",
                        4,
                        unit="s",
                        nothing="–",
                        thresholds=(("text", None), ("red", CHECKPOINT_AGE_S)),
                    ),
                    stat(
                        "Largest clock offset",
                        "Of a publisher, ahead or behind; ClockWrong.",
                        f"max({_newest(names.OBSERVE_CLOCK_OFFSET)})",
                        4,
                        unit="s",
                        nothing="–",
                        thresholds=(("text", None), ("red", CLOCK_OFFSET_S)),
                    ),
                    stat(
                        "Runs ended as killed",
                        "Runs of publishers that died.",
                        f"sum({in_range(_of_group(names.OBSERVE_KILLED))})",
                        4,
                        nothing="0",
                        decimals=0,
                        thresholds=(("text", None), ("orange", 1.0)),
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Events",
                        "Events with telemetry made by each observer.",
                        (_each_observer(names.OBSERVE_EVENTS),),
                        12,
                    ),
                    lines(
                        "Behind",
                        "Age of the last event that each observer read; ObserversLag fires above the line.",
                        (
                            Query(
                                f"max by ({_OF_OBSERVER}) ({_newest(names.OBSERVE_LAG)})",
                                _NAMED_OBSERVER,
                            ),
                        ),
                        12,
                        unit="s",
                        limit=OBSERVER_LAG_S,
                    ),
                ),
            ),
            (
                8,
                (
                    lines(
                        "Partitions",
                        "Partitions of each observer, of 64.",
                        (
                            Query(
                                f"sum by ({_OF_OBSERVER}) ({_newest(names.OBSERVE_PARTITIONS)})",
                                _NAMED_OBSERVER,
                            ),
                        ),
                        8,
                    ),
                    lines(
                        "Checkpoints",
                        "Age of each observer's oldest checkpoint; CheckpointStands fires above the line.",
                        (
                            Query(
                                f"max by ({_OF_OBSERVER}) ({_newest(names.OBSERVE_CHECKPOINT_AGE)})",
                                _NAMED_OBSERVER,
                            ),
                        ),
                        8,
                        unit="s",
                        limit=CHECKPOINT_AGE_S,
                    ),
                    bars(
                        "Changes of hands",
                        "Partitions taken from another observer, and events of open runs that were read again for it.",
                        (
                            _each_observer(names.OBSERVE_TAKEOVERS, f"taken by {_NAMED_OBSERVER}"),
                            _each_observer(
                                names.OBSERVE_READ_AGAIN, f"read again by {_NAMED_OBSERVER}"
                            ),
                        ),
                        8,
                    ),
                ),
            ),
            (
                8,
                (
                    bars(
                        "Left out",
                        "Late: after the end of the run was recorded. Doubled: already in the stream. No event: an unreadable line. Lost: deleted unread.",
                        tuple(
                            Query(f"sum({in_step(_of_group(metric))})", legend)
                            for metric, legend in (
                                (names.OBSERVE_LATE, "late"),
                                (names.OBSERVE_DOUBLED, "doubled"),
                                (names.OBSERVE_BROKEN, "no event"),
                                (names.OBSERVE_LOST, "lost"),
                            )
                        ),
                        12,
                    ),
                    lines(
                        "Clocks",
                        "The largest offset of a publisher's clock that each observer sees; ClockWrong fires above the line.",
                        (
                            Query(
                                f"max by ({_OF_OBSERVER}) ({_newest(names.OBSERVE_CLOCK_OFFSET)})",
                                _NAMED_OBSERVER,
                            ),
                        ),
                        12,
                        unit="s",
                        limit=CLOCK_OFFSET_S,
                    ),
                ),
            ),
            (1, (heading("Queues"),)),
            (
                8,
                (
                    lines(
                        "Wait in queues",
                        "95 of 100 tasks of a quarter of an hour waited at most this long; QueueWaits fires above the line.",
                        (
                            Query(
                                rule(QUEUE_P95_15M, _ANYWHERE),
                                f"{_NAMED_WORKFLOW}: {{{{{QUEUE}}}}}",
                            ),
                        ),
                        12,
                        unit="s",
                        limit=QUEUE_WAIT_S,
                    ),
                    bars(
                        "Tasks begun",
                        "By queue.",
                        (
                            Query(
                                f"sum by ({QUEUE}) ({in_step(_TASKS_BEGUN)})",
                                f"{{{{{QUEUE}}}}}",
                            ),
                        ),
                        12,
                    ),
                ),
            ),
        ),
        since="now-6h",
    )


# --- Grafana's JSON ----------------------------------------------------------------------------------------------


def _target(query: Query, place: int) -> Json:
    return {
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "exemplar": query.exemplar,
        "expr": query.expr,
        "format": query.form,
        "instant": query.instant,
        "legendFormat": query.legend or "__auto",
        "range": not query.instant,
        "refId": "ABCDEFGH"[place],
    }


def _panel(panel: Panel, number: int, at: Json) -> Json:
    if panel.kind == "row":
        return {
            "type": "row",
            "id": number,
            "title": panel.title,
            "collapsed": False,
            "gridPos": at,
            "panels": [],
        }
    defaults: Json = {
        "unit": panel.unit,
        "color": {
            "mode": "thresholds" if panel.colored or panel.kind == "table" else "palette-classic"
        },
        "custom": dict(panel.custom),
        "mappings": [
            {
                "type": "value",
                "options": {
                    value: {"index": place, "text": text, "color": colour}
                    for place, (value, (text, colour)) in enumerate(panel.mappings.items())
                },
            }
        ]
        if panel.mappings
        else [],
        "thresholds": thresholds(*panel.thresholds),
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.nothing is not None:
        defaults["noValue"] = panel.nothing
    document: Json = {
        "type": panel.kind,
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "gridPos": at,
        "datasource": PROMETHEUS,
        "targets": [_target(query, place) for place, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": list(panel.overrides)},
        "options": dict(panel.options),
    }
    if panel.transformations:
        document["transformations"] = list(panel.transformations)
    if panel.kind in ("timeseries", "heatmap"):
        # Each point looks back a day, so few points are enough.
        document.update(maxDataPoints=200, interval="15s")
    return document


def _variable(variable: Variable) -> Json:
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.title,
        "datasource": PROMETHEUS,
        "definition": variable.query,
        "query": {
            "qryType": 1,
            "query": variable.query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "refresh": 2,
        "sort": 1,
        "regex": "",
        "hide": 0,
        "multi": variable.several,
        "includeAll": variable.several,
        "options": [],
        "skipUrlSync": False,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}
        if variable.several
        else {},
        **({"allValue": variable.all_of_them} if variable.several else {}),
    }


def document(dashboard: Dashboard) -> Json:
    panels: list[Json] = []
    y = 0
    for height, row in dashboard.rows:
        x = 0
        for panel in row:
            panels.append(
                _panel(panel, len(panels) + 1, {"h": height, "w": panel.width, "x": x, "y": y})
            )
            x += panel.width
        if x != WIDTH:
            raise ValueError(
                f"{dashboard.uid}: the row of {row[0].title!r} is {x} wide and not {WIDTH}"
            )
        y += height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["spanbus"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "timezone": "browser",
        "time": {"from": dashboard.since, "to": "now"},
        "refresh": "30s",
        "timepicker": {},
        "preload": False,
        "links": [
            {
                "type": "dashboards",
                "title": "spanbus",
                "tags": ["spanbus"],
                "asDropdown": False,
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "annotations": {
            "list": [
                {
                    "builtIn": 1,
                    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
                    "enable": True,
                    "hide": True,
                    "iconColor": "rgba(0, 211, 255, 1)",
                    "name": "Annotations & Alerts",
                    "type": "dashboard",
                }
            ]
        },
        "templating": {"list": [_variable(variable) for variable in dashboard.variables]},
        "panels": panels,
    }


def files() -> dict[str, str]:
    """File names with their content."""
    return {
        f"{dashboard.uid}.json": json.dumps(document(dashboard), indent=2, ensure_ascii=False)
        + "\n"
        for dashboard in (overview(), phase(), delivery(), observers())
    }


def main(arguments: Sequence[str]) -> int:
    """Write files that differ; with ``--check`` only report them."""
    parser = argparse.ArgumentParser(
        prog="dashboards.py", description="Write the Grafana dashboards from the catalogue."
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 when a file is out of date",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    wanted = files()
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    differing = sorted(
        name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)
    )
    if options.check:
        for name in differing:
            sys.stderr.write(
                f"{folder / name} is not what the catalogue says; run python tools/dashboards.py\n"
            )
        return 1 if differing else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in differing:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
