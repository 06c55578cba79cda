"""A run's outline, read from the rows of its phases, compares as the whole run does."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanbus._runs.compare import compare
from spanbus._store.store import Store

START_NS = 1_767_225_600_000_000_000


def request(trace: int, level_of_the_third: str = "phase") -> bytes:
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    for number in range(8):
        said = {
            "spanbus.level": "phase" if number else "run",
            "cicd.pipeline.name": "bench",
            "cicd.pipeline.run.id": f"run-{trace}",
        }
        if number:
            said["cicd.pipeline.task.name"] = f"phase-{number % 5}"
            said["cicd.pipeline.task.run.result"] = "failure" if number == trace else "success"
        else:
            said["cicd.pipeline.result"] = "failure"
        if number == 3:
            said |= {"spanbus.level": level_of_the_third, "spanbus.hook.name": "third"}
        if number == 7:  # beneath the sixth
            said["spanbus.level"] = "attempt"
        span = spans.add(
            trace_id=trace.to_bytes(16, "big"),
            span_id=(trace * 100 + number + 1).to_bytes(8, "big"),
            parent_span_id=(trace * 100 + (7 if number == 7 else 1)).to_bytes(8, "big")
            if number
            else b"",
            name=f"span {number}",
            start_time_unix_nano=START_NS - number * 1_000,
            end_time_unix_nano=START_NS + (number + trace) * 300_000_000,
        )
        for key, text in said.items():
            span.attributes.add(key=key).value.string_value = text
    return made.SerializeToString()


@pytest.mark.parametrize("level", ["phase", "hook"])
def test_an_outline_compares_as_the_whole_run_does(tmp_path: Path, level: str) -> None:
    with Store.open(tmp_path / "store.sqlite3") as store:
        for trace in (1, 2):
            store.ingest_traces(request(trace, level))
        whole = [store.run(f"run-{trace}") for trace in (1, 2)]
        outlines = [store.outline(f"run-{trace}") for trace in (1, 2)]
    assert [phase.name for phase in outlines[0].phases] == [phase.name for phase in whole[0].phases]
    assert len(whole[0].phases) == 6
    assert compare(outlines[:1], outlines[1]) == compare(whole[:1], whole[1])
