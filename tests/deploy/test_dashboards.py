"""Grafana's dashboards: generated from the catalogue, asking only for what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import yaml
from dashboards import (
    FOLDER,
    ROOT,
    UIDS,
    Json,
    Target,
    asked,
    load,
    panels,
    targets,
    variable_query,
    variables,
)

from spanbus._semantics import names

TARGETS = list(targets())
PROVISIONING = ROOT / "deploy/grafana/provisioning"

SCRAPED = frozenset({"job", "instance", "deployment_environment_name", "vcs_ref_head_name"})
"""What Prometheus puts on every series."""

FOREIGN: dict[str, frozenset[str]] = {
    "up": SCRAPED,
    "ALERTS": frozenset(
        {
            "alertname",
            "alertstate",
            "severity",
            "reason",
            "cicd_pipeline_name",
            "cicd_pipeline_task_name",
            *SCRAPED,
        }
    ),
    "otelcol_process_uptime": SCRAPED,
    "otelcol_process_memory_rss": SCRAPED,
    "otelcol_receiver_accepted_spans": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_accepted_metric_points": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_accepted_log_records": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_refused_spans": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_refused_metric_points": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_failed_spans": SCRAPED | {"receiver", "transport"},
    "otelcol_receiver_failed_metric_points": SCRAPED | {"receiver", "transport"},
    "otelcol_exporter_sent_spans": SCRAPED | {"exporter"},
    "otelcol_exporter_sent_metric_points": SCRAPED | {"exporter"},
    "otelcol_exporter_send_failed_spans": SCRAPED | {"exporter"},
    "otelcol_exporter_enqueue_failed_spans": SCRAPED | {"exporter"},
    "otelcol_exporter_queue_size": SCRAPED | {"exporter", "data_type"},
    "otelcol_exporter_queue_capacity": SCRAPED | {"exporter", "data_type"},
    "otelcol_deltatocumulative_streams_tracked": SCRAPED,
    "otelcol_deltatocumulative_streams_limit": SCRAPED,
}
"""The collector's and Prometheus' own names, with the labels that may be asked for. Nothing else is foreign."""


def catalogue() -> dict[str, frozenset[str]]:
    """Series of the catalogue with their labels, as Prometheus spells both."""
    found: dict[str, frozenset[str]] = {}
    for metric in names.METRICS:
        labels = frozenset(attribute.replace(".", "_") for attribute in metric.attributes) | SCRAPED
        if metric.instrument == "histogram":
            found[f"{metric.prometheus}_bucket"] = labels | {"le"}
            found[f"{metric.prometheus}_count"] = found[f"{metric.prometheus}_sum"] = labels
        else:
            found[metric.prometheus] = labels
    return found


def recorded() -> dict[str, frozenset[str]]:
    """Recording rules with the labels that they keep."""
    document = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    found: dict[str, frozenset[str]] = {}
    for group in document["groups"]:
        for rule in group["rules"]:
            kept = re.search(r"\bby \(([^)]*)\)", rule["expr"])
            if kept is None:  # made of another one, with its labels
                [other] = {name for name in found if name in rule["expr"]} & {
                    "spanbus:phase_last_run:timestamp",
                    "spanbus:workflow_last_run:timestamp",
                }
                found[rule["record"]] = found[other]
                continue
            found[rule["record"]] = frozenset(label.strip() for label in kept[1].split(",")) - {
                "le"
            }
    return found


KNOWN = catalogue() | recorded() | FOREIGN


def wrong_with(expr: str) -> list[str]:
    """What the expression asks for and nobody has."""
    wrong: list[str] = []
    there: set[str] = set()
    for metric, labels in asked(expr).selectors:
        meant = (
            [metric]
            if metric in KNOWN
            else [name for name in KNOWN if re.fullmatch(metric, name)]
            if "|" in metric
            else []
        )
        if not meant:
            wrong.append(f"no metric {metric}")
        for name in meant:
            there |= KNOWN[name]
            wrong += [f"{name} has no label {label}" for label in sorted(labels - KNOWN[name])]
    return wrong + [
        f"grouped by {label}, which none of its metrics has"
        for label in sorted(asked(expr).grouped - there)
    ]


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tools/dashboards.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


# --- generated ----------------------------------------------------------------------------------------------------------


def test_generating_them_again_changes_nothing(tmp_path: Path) -> None:
    assert tool("--folder", str(tmp_path)).returncode == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }


def test_a_dashboard_that_was_changed_by_hand_is_told_and_written_anew(tmp_path: Path) -> None:
    tool("--folder", str(tmp_path))
    changed = tmp_path / f"{UIDS[0]}.json"
    generated = changed.read_text()
    changed.write_text(generated.replace("Success ratio", "Success"))
    (tmp_path / "old.json").write_text("{}")
    told = tool("--check", "--folder", str(tmp_path))
    assert told.returncode == 1
    assert changed.name in told.stderr and "old.json" in told.stderr
    assert tool("--folder", str(tmp_path)).returncode == 0
    assert changed.read_text() == generated
    assert tool("--check", "--folder", str(tmp_path)).returncode == 0


# --- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_a_query_asks_only_for_metrics_and_labels_that_exist(target: Target) -> None:
    assert asked(target.expr).selectors
    assert wrong_with(target.expr) == []


@pytest.mark.parametrize("uid", UIDS)
def test_a_variable_asks_only_for_metrics_and_labels_that_exist(uid: str) -> None:
    assert variables(uid)
    for variable in variables(uid):
        selector, label = variable_query(variable)
        assert wrong_with(selector) == []
        assert asked(selector).selectors
        for metric, _ in asked(selector).selectors:
            assert all(label in KNOWN[name] for name in metric.split("|")), (metric, label)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("sum(spanbus_phase_failure_total)", ["no metric spanbus_phase_failure_total"]),
        (
            'spanbus_phase_failures_total{error_type="x"}',
            ["spanbus_phase_failures_total has no label error_type"],
        ),
        (
            "sum by (phase) (spanbus_phase_failures_total)",
            ["grouped by phase, which none of its metrics has"],
        ),
        ("rate(spanbus_phase_duration_seconds[5m])", ["no metric spanbus_phase_duration_seconds"]),
        ('{__name__=~"spanbus_phase_retries_total|spanbus_nothing"}', []),
        ('{__name__=~"spanbus_a|spanbus_b"}', ["no metric spanbus_a|spanbus_b"]),
    ],
)
def test_a_wrong_name_would_be_found(expr: str, expected: list[str]) -> None:
    assert wrong_with(expr) == expected


def test_every_metric_of_the_catalogue_is_shown_somewhere() -> None:
    shown = {metric for target in TARGETS for metric, _ in asked(target.expr).selectors}
    missing = [
        metric.name
        for metric in names.METRICS
        if not any(name.startswith(metric.prometheus) for name in shown)
    ]
    # The gauge of a phase is read through the recording rules, which remember it for 7 days.
    assert missing == [names.PHASE_LAST_RUN]
    # The rules that say how long a phase or a workflow is usually away, and the runs of an hour, are for alerts alone.
    assert recorded().keys() - shown == {
        "spanbus:phase_runs:1h",
        "spanbus:phase_last_run:timestamp",
        "spanbus:phase_away:seconds",
        "spanbus:phase_usual_interval:seconds",
        "spanbus:workflow_away:seconds",
        "spanbus:workflow_usual_interval:seconds",
    }


def test_a_counter_of_runs_is_never_asked_for_its_increase() -> None:
    """A run's counter is born at its first value, which ``increase`` and ``rate`` never see."""
    assert len(TARGETS) > 20
    for target in TARGETS:
        assert not re.search(r"\b(increase|rate|irate|delta)\((spanbus|cicd)_", target.expr), (
            target.name
        )


# --- what a reader sees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uid", UIDS)
def test_a_panel_says_what_it_shows(uid: str) -> None:
    for panel in panels(uid):
        if panel["type"] == "row":
            continue
        defaults = cast("Json", cast("Json", panel["fieldConfig"])["defaults"])
        assert panel["title"] and str(panel["description"]).endswith(".")
        assert defaults["unit"]
        steps = cast("list[Json]", cast("Json", defaults["thresholds"])["steps"])
        values = [cast("float", step["value"]) for step in steps[1:]]
        assert steps[0]["value"] is None and values == sorted(values)
        assert panel["targets"]


@pytest.mark.parametrize("uid", UIDS)
def test_panels_lie_beside_each_other_and_have_ids_of_their_own(uid: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(uid):
        at = cast("dict[str, int]", panel["gridPos"])
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in panels(uid)]
    assert len(set(ids)) == len(ids)


def test_durations_are_seconds_and_moments_are_milliseconds() -> None:
    """`dateTimeFromNow` takes milliseconds, Prometheus has seconds."""
    moments = durations = 0
    for uid in UIDS:
        for panel in panels(uid):
            unit = cast(
                "Json", cast("Json", panel.get("fieldConfig") or {}).get("defaults") or {}
            ).get("unit")
            for target in cast("list[Json]", panel.get("targets") or []):
                if unit == "dateTimeFromNow":
                    moments += 1
                    assert str(target["expr"]).startswith("1000 * "), panel["title"]
                if (
                    str(target["expr"]).startswith("histogram_quantile")
                    and panel["type"] != "table"
                ):
                    durations += 1
                    assert unit == "s", panel["title"]
    assert (moments > 0, durations > 0) == (True, True)


def threshold(uid: str, title: str) -> object:
    """The last threshold of a panel."""
    [panel] = [panel for panel in panels(uid) if panel["title"] == title]
    defaults = cast("Json", cast("Json", panel["fieldConfig"])["defaults"])
    return cast("list[Json]", cast("Json", defaults["thresholds"])["steps"])[-1]["value"]


def thresholds(uid: str, title: str) -> set[object]:
    """The last thresholds of the panels of that title."""
    steps = [
        cast("Json", cast("Json", panel["fieldConfig"])["defaults"])["thresholds"]
        for panel in panels(uid)
        if panel["title"] == title
    ]
    return {cast("list[Json]", cast("Json", each)["steps"])[-1]["value"] for each in steps}


def test_a_panel_turns_red_where_its_alert_fires() -> None:
    groups = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    [slow_s] = re.findall(r"> (\d+)\b", alerts["PhaseSlow"])
    assert (
        threshold("spanbus-phase", "p95")
        == threshold("spanbus-overview", "Slowest phases")
        == float(slow_s)
    )
    [budget] = re.findall(r"> (0\.\d+)", alerts["PhaseFailureBudgetBurn"])
    for uid in ("spanbus-overview", "spanbus-phase"):
        [panel] = [panel for panel in panels(uid) if panel["title"] == "Success ratio"]
        steps = cast(
            "list[Json]",
            cast(
                "Json", cast("Json", cast("Json", panel["fieldConfig"])["defaults"])["thresholds"]
            )["steps"],
        )
        assert [step["color"] for step in steps] == ["red", "orange", "green"]
        assert steps[1]["value"] == 1 - float(budget)
    for title, alert in (
        ("Behind", "ObserversLag"),
        ("Checkpoints", "CheckpointStands"),
        ("Clocks", "ClockWrong"),
        ("Wait in queues", "QueueWaits"),
    ):
        [limit] = re.findall(r"> (\d+)", alerts[alert])
        assert thresholds("spanbus-observers", title) == {float(limit)}, title


def test_variables_are_those_of_the_links_in_alerts() -> None:
    addresses = re.findall(r"dashboard: (.*)", (ROOT / "deploy/prometheus/alerts.yml").read_text())
    linked = {
        (uid, variable)
        for address in addresses
        for uid in re.findall(r"/d/([\w-]+)", address)
        for variable in re.findall(r"var-(\w+)=", address)
    }
    assert {uid for address in addresses for uid in re.findall(r"/d/([\w-]+)", address)} == set(
        UIDS
    )
    assert linked == {
        *(
            (uid, variable)
            for uid in ("spanbus-overview", "spanbus-phase")
            for variable in ("project", "environment", "branch")
        ),
        ("spanbus-overview", "workflow"),
        ("spanbus-phase", "workflow"),
        ("spanbus-phase", "phase"),
        ("spanbus-observers", "group"),
    }
    for uid, variable in linked:
        assert variable in {each["name"] for each in variables(uid)}


def test_links_between_dashboards_lead_to_dashboards_and_their_variables() -> None:
    found = 0
    for uid in UIDS:
        for target, query in re.findall(r'"url": "/d/([\w-]+)\?([^"]*)"', json.dumps(load(uid))):
            found += 1
            assert target in UIDS
            assert set(re.findall(r"var-(\w+)=", query)) <= {
                str(each["name"]) for each in variables(target)
            }
    assert found >= 3


def test_a_link_of_a_table_takes_its_values_from_columns_of_that_table() -> None:
    found: set[str] = set()
    for panel in [panel for uid in UIDS for panel in panels(uid) if panel["type"] == "table"]:
        [titles] = [
            cast("Json", step["options"])["renameByName"]
            for step in cast("list[Json]", panel["transformations"])
            if step["id"] == "organize"
        ]
        used = set(re.findall(r"__data\.fields\.(\w+):percentencode", json.dumps(panel)))
        assert used <= set(cast("dict[str, str]", titles).values()), panel["title"]
        found |= used
    assert found == {"Project", "Workflow", "Phase"}


def test_the_heat_map_shows_exemplars() -> None:
    [heatmap] = [target for target in TARGETS if target.kind == "heatmap"]
    assert (heatmap.uid, heatmap.exemplar, heatmap.instant) == ("spanbus-phase", True, False)
    assert "spanbus_phase_duration_seconds_bucket" in heatmap.expr


# --- provisioning -------------------------------------------------------------------------------------------------------


def test_data_sources_are_those_that_the_dashboards_ask_for() -> None:
    document = yaml.safe_load((PROVISIONING / "datasources/spanbus.yaml").read_text())
    sources = {source["uid"]: source for source in document["datasources"]}
    assert {uid: source["type"] for uid, source in sources.items()} == {
        "prometheus": "prometheus",
        "jaeger": "jaeger",
    }
    assert sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"] == [
        {"name": "trace_id", "datasourceUid": "jaeger"}
    ]
    for uid in UIDS:
        asked_for = set(
            re.findall(r'"datasource": \{"type": "(\w+)", "uid": "(\w+)"\}', json.dumps(load(uid)))
        )
        assert asked_for == {("prometheus", "prometheus")}


def test_addresses_come_from_the_environment() -> None:
    """Grafana expands `$NAME`; it has no form for a default, which would become part of the name."""
    document = yaml.safe_load((PROVISIONING / "datasources/spanbus.yaml").read_text())
    assert {source["uid"]: source["url"] for source in document["datasources"]} == {
        "prometheus": "$PROMETHEUS_URL",
        "jaeger": "$JAEGER_URL",
    }


def test_the_shortest_step_is_the_scrape_interval() -> None:
    document = yaml.safe_load((PROVISIONING / "datasources/spanbus.yaml").read_text())
    [prometheus] = [source for source in document["datasources"] if source["uid"] == "prometheus"]
    scraping = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["global"][
        "scrape_interval"
    ]
    assert prometheus["jsonData"]["timeInterval"] == scraping


def test_dashboards_are_read_from_files_and_are_not_saved_in_the_browser() -> None:
    [provider] = yaml.safe_load((PROVISIONING / "dashboards/spanbus.yaml").read_text())["providers"]
    assert (provider["type"], provider["allowUiUpdates"], provider["disableDeletion"]) == (
        "file",
        False,
        True,
    )
    assert provider["options"] == {"path": "/etc/grafana/dashboards"}
    assert (
        {str(load(uid)["uid"]) for uid in UIDS}
        == set(UIDS)
        == {path.stem for path in FOLDER.iterdir()}
    )


def test_compose_gives_grafana_what_its_provisioning_asks_for() -> None:
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    asked_for = {
        name
        for path in PROVISIONING.rglob("*.yaml")
        for line in path.read_text().splitlines()
        for name in re.findall(r"\$(\w+)", line.split("#")[0])
    }
    assert asked_for == {"PROMETHEUS_URL", "JAEGER_URL"}
    assert asked_for <= grafana["environment"].keys()
    mounted = {volume["target"]: volume["source"] for volume in grafana["volumes"]}
    [provider] = yaml.safe_load((PROVISIONING / "dashboards/spanbus.yaml").read_text())["providers"]
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
