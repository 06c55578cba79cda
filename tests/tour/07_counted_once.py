"""Stop 7: metrics. Durations are histograms in seconds; the counter of failures is right across short-lived processes.

A process that lives for one run exports delta temporality, which a collector adds up; a service exports cumulative sums.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver


@pytest.mark.parametrize(
    ("lifetime", "temporality"),
    [
        ("run", AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA),
        ("service", AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE),
    ],
)
async def test_a_failed_phase_is_one_failure(
    collector: Receiver, tmp_path: Path, lifetime: str, temporality: int
) -> None:
    async def fails(context: spanbus.PhaseContext) -> bool:
        return False

    env = {
        **collector.env,
        "SPANBUS_STATE_DIR": str(tmp_path),
        "SPANBUS_LIFETIME": lifetime,
        "SPANBUS_EXIT_TIMEOUT_S": "30",  # a loaded machine may need more than the default 0.25 s
    }
    async with spanbus.open_runtime(env=env) as runtime:
        await runtime.run(
            Workflow("w", (Phase("p", action=fails, retries=1, retry_backoff_s=0.001),))
        )
    assert collector.wait_until(lambda seen: bool(seen.metrics()))

    metrics = {metric.name: metric for metric in collector.metrics()}
    failures, duration = metrics["spanbus.phase.failures"].sum, metrics["spanbus.phase.duration"]
    assert failures.aggregation_temporality == temporality
    assert sum(point.as_int or point.as_double for point in failures.data_points) == 1
    assert duration.unit == "s"
    assert sum(point.count for point in duration.histogram.data_points) == 1
