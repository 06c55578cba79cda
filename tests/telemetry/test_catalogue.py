"""The catalogue of telemetry: the page, the JSON document and the emitted telemetry agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from rendered import Exported, executed

from spanbus._correlation.correlator import Correlator
from spanbus._reading import dialect_file, replay
from spanbus._reading.reader import Reader
from spanbus._semantics import ErrorType, Level, Result, definitions, names
from spanbus._telemetry import catalogue
from spanbus._telemetry.metrics import MetricSink, observe_numbers
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template
from spanbus._workflow.events import WorkflowEvent

ROOT = Path(__file__).parents[2]
RECORDINGS = sorted((ROOT / "tests" / "recordings").glob("*.jsonl"))


def test_the_page_is_what_the_generator_writes() -> None:
    assert (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8") == catalogue.markdown()


def test_check_finds_a_page_that_differs(tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, "-m", "spanbus._telemetry.catalogue", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )

    missing = command("--check")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert command().returncode == 0
    assert command("--check").returncode == 0
    (tmp_path / "docs" / "telemetry.md").write_text("something else")
    assert command("--check").returncode == 1


def test_the_json_document_lists_all_spans_attributes_metrics_and_results() -> None:
    found = json.loads(json.dumps(catalogue.document()))
    assert [span["level"] for span in found["spans"]] == [level.value for level in Level]
    assert {attribute["name"] for attribute in found["attributes"]} == {
        attribute.name for attribute in definitions.ATTRIBUTES
    }
    assert {metric["name"] for metric in found["metrics"]} == {
        metric.name for metric in names.METRICS
    }
    assert {metric["name"] for metric in found["metrics"] if "buckets" in metric} == {
        names.RUN_DURATION,
        names.PHASE_DURATION,
        names.QUEUE_WAITS,
    }
    assert {row["result"] for row in found["results"]} == {result.value for result in Result}


def test_every_bus_event_is_in_the_catalogue() -> None:
    assert {event.name for event in catalogue.EVENTS} == set(WorkflowEvent)


def test_status_and_error_type_of_outcomes_agree_with_the_results() -> None:
    for row in catalogue.OUTCOMES:
        assert row.failure == row.result.failed
        assert row.status.startswith("ERROR") == row.failure
        assert (row.error_type is not None) == row.failure


def test_every_error_type_is_on_the_page() -> None:
    page = catalogue.markdown()
    assert all(f"`{error_type}`" in page for error_type in ErrorType)


@pytest.mark.parametrize("metric", names.METRICS, ids=lambda metric: metric.name)
def test_prometheus_names_are_those_of_the_collectors_exporter(metric: names.Metric) -> None:
    unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    total = "_total" if metric.instrument == "counter" else ""
    assert metric.prometheus == metric.name.replace(".", "_") + unit + total


def test_every_attribute_of_a_metric_is_in_the_catalogue() -> None:
    listed = {one.name for one in definitions.ATTRIBUTES}
    assert {name for metric in names.METRICS for name in metric.attributes} <= listed


def test_names_are_unique() -> None:
    for listed in (
        [one.name for one in definitions.ATTRIBUTES],
        [one.name for one in names.METRICS],
        [one.name for one in catalogue.EVENTS],
    ):
        assert len(listed) == len(set(listed))


# --- emitted telemetry ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emitted() -> tuple[list[ReadableSpan], InMemoryMetricReader]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = MeterProvider([reader])
    meter = provider.get_meter("test")
    sinks = (
        DirectSpans(
            Exported(exporter), Template(Redactor()), sampler=ALWAYS_ON, resource=Resource({})
        ),
        MetricSink(meter, long_lived=True),
    )
    for prefix in ("spanbus.delivery.", "spanbus.observe."):
        observe_numbers(
            meter,
            prefix,
            lambda: {
                metric.name: [(dict.fromkeys(metric.attributes, "x"), 1.0)]
                for metric in names.METRICS
            },
        )
    for path in RECORDINGS:
        correlator = Correlator(sinks)
        for fact in replay.facts(path, Reader(dialect_file.load("crackerjack"))):
            correlator.apply(fact)
        correlator.close()
    executed(correlator := Correlator(sinks))
    correlator.close()
    return list(exporter.get_finished_spans()), reader


def known(name: str, listed: Iterator[str]) -> bool:
    return any(
        re.fullmatch(re.escape(one).replace(r"\{type\}", ".+").replace(r"\{key\}", ".+"), name)
        for one in listed
    )


def test_every_emitted_attribute_is_in_the_catalogue(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    spans, _ = emitted
    assert len(spans) > 30
    for span in spans:
        for attributes in (
            span.attributes or {},
            *(event.attributes or {} for event in span.events),
            *(link.attributes or {} for link in span.links),
        ):
            for name in attributes:
                assert known(name, (one.name for one in definitions.ATTRIBUTES)), name


def test_every_emitted_attribute_has_its_type_of_the_catalogue(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    kinds = {"string": str, "string[]": tuple, "int": int, "double": float, "boolean": bool}
    for span in emitted[0]:
        for name, value in (span.attributes or {}).items():
            kind = next((one.kind for one in definitions.ATTRIBUTES if one.name == name), "int")
            assert type(value) is kinds[kind], (name, value)


def test_every_metric_is_emitted_with_its_unit_and_attributes(
    emitted: tuple[list[ReadableSpan], InMemoryMetricReader],
) -> None:
    data = emitted[1].get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    listed = {metric.name: metric for metric in names.METRICS}
    assert set(found) == set(listed)
    for name, metric in found.items():
        assert (metric.unit, metric.description) == (listed[name].unit, listed[name].brief)
        for point in metric.data.data_points:
            assert set(point.attributes or {}) <= set(listed[name].attributes)
