"""Leftovers of a dead process: its open spans are ended, its unexported measurements counted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from spanbus._otlp.encode import resource_of
from spanbus._otlp.resource import PlainResource
from spanbus._semantics import Level, names
from spanbus._telemetry.metrics import MetricSink
from spanbus._telemetry.resource import sdk_resource
from spanbus._telemetry.sampling import EnvironmentSampler
from spanbus._telemetry.spans import DirectSpans
from spanbus._telemetry.template import Template
from spanbus._version import __version__
from spanbus._wiring.own import own_meter_provider

if TYPE_CHECKING:
    from spanbus._delivery.pipeline import Pipeline
    from spanbus._delivery.recovery import Leftover


def finish_leftover(
    leftover: Leftover, pipeline: Pipeline, template: Template, env: Mapping[str, str]
) -> None:
    """Put the spans and measurements of ``leftover`` into ``pipeline``, with the resource of the dead process."""
    from spanbus._telemetry.journal import Leftover as JournalLeftover
    from spanbus._telemetry.journal import finished, measured

    resource = resource_of(leftover.group) or sdk_resource(pipeline.resource)
    always = EnvironmentSampler("always_on")
    spans = DirectSpans(pipeline, template, sampler=always, resource=resource)
    ended = finished(JournalLeftover(leftover.open, leftover.measurements, leftover.alive_ns))
    for record in reversed(ended):
        spans.opened(record)
    for record in ended:
        spans.closed(record)
    uncounted = [record for record in map(measured, leftover.measurements) if record is not None]
    uncounted.extend(
        record for record in ended if record.level in (Level.RUN, Level.PHASE, Level.EXECUTION)
    )
    if not uncounted:
        return
    from spanbus._delivery.metric_reader import SpoolMetricReader

    # Counted and marked as counted at once: a process that is killed in between would have them counted again.
    put = functools.partial(pipeline.put_metrics, finishes=leftover.token)
    reader = SpoolMetricReader(put, "run", env)
    provider = own_meter_provider(
        [reader], resource.merge(sdk_resource(PlainResource({names.LIFETIME: "run"}))), env
    )
    sink = MetricSink(
        provider.get_meter(names.SCOPE, __version__, names.SCHEMA_URL), long_lived=False
    )
    for record in uncounted:
        if record.handle is None:
            spans.opened(record)  # its context, for the exemplar
        sink.closed(record)
    provider.shutdown()
