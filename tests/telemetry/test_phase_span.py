"""The current span inside a phase of our own engine, and spans that the code of the phase creates."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import prepared
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus.testing import Receiver

PHASES = """
import sys
import anyio
from opentelemetry import trace

import spanbus
from spanbus import Phase, Workflow

async def lint(context):
    span = trace.get_current_span()
    assert span.is_recording()
    span.set_attribute("files", 12)
    span.set_attribute("names", ["a.py", "b.py"])
    span.set_attribute("password", "hunter2")
    span.set_attribute("cicd.pipeline.task.name", "kept by the caller")
    span.add_event("checked", {"file": "a.py"}, timestamp=1_800_000_000_000_000_000)
    span.add_link(trace.SpanContext(7, 9, True), {"why": "before"})
    span.record_exception(ValueError("not so bad"))
    span.set_status(trace.StatusCode.ERROR, "half done")
    with trace.get_tracer("mine").start_as_current_span("inside"):
        pass
    return True

async def tests(context):
    try:
        raise ValueError("no")
    except ValueError as error:
        trace.get_current_span().record_exception(error)
        raise

async def main(**options):
    async with spanbus.open_runtime(**options) as runtime:
        await runtime.run(Workflow("w", (Phase("lint", action=lint), Phase("tests", action=tests))))

anyio.run(lambda: main(provide="provide" in sys.argv))
anyio.run(lambda: main(provide="provide" in sys.argv))
print(type(trace.get_tracer_provider()).__name__)
"""


@cache
def ran(delivery: str, *arguments: str, spans: int) -> tuple[dict[str, list[Span]], str]:
    """Run the program once for all tests with the same arguments."""
    with Receiver() as receiver, TemporaryDirectory() as folder:
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SPANBUS_"))},
            **receiver.env,
            "SPANBUS_STATE_DIR": folder,
            "SPANBUS_DELIVERY": delivery,
            "SPANBUS_EXIT_TIMEOUT_S": "30",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = prepared.run(
            arguments,
            folder=Path(folder),
            env=env,
            stdin=None,
            timeout_s=60,
            code=f"import warnings; warnings.simplefilter('error')\n{PHASES}",
            finalize=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert receiver.wait_until(lambda records: len(records.spans()) >= spans)
        found: dict[str, list[Span]] = {}
        for span in receiver.spans():
            found.setdefault(span.name, []).append(span)
        return found, done.stdout.strip()


def test_attributes_events_and_links_set_on_the_current_span_are_exported(delivery: str) -> None:
    spans, provider = ran(delivery, spans=6)
    span = spans["lint"][0]
    attributes = {one.key: one.value for one in span.attributes}
    assert attributes["files"].int_value == 12
    assert [one.string_value for one in attributes["names"].array_value.values] == ["a.py", "b.py"]
    assert attributes["password"].string_value == "REDACTED"
    assert attributes["cicd.pipeline.task.run.result"].string_value == "success"
    events = {event.name: event for event in span.events}
    assert events["checked"].time_unix_nano == 1_800_000_000_000_000_000
    assert {one.key: one.value.string_value for one in events["checked"].attributes} == {
        "file": "a.py"
    }
    exception = {one.key: one.value.string_value for one in events["exception"].attributes}
    assert exception["exception.type"] == "ValueError"
    assert exception["exception.message"] == "not so bad"
    assert [link.span_id for link in span.links] == [(9).to_bytes(8, "big")]
    assert (span.status.code, span.status.message) == (2, "half done")
    assert "inside" not in spans
    assert provider == "ProxyTracerProvider"


def test_an_exception_that_is_recorded_and_raised_is_exported_once(delivery: str) -> None:
    spans, _ = ran(delivery, spans=6)
    span = spans["tests"][0]
    assert [event.name for event in span.events].count("exception") == 1
    assert span.status.code == 2


def test_with_provide_spans_inside_a_phase_are_its_children(delivery: str) -> None:
    spans, provider = ran(delivery, "provide", spans=8)
    assert provider == "TracerProvider"
    assert len(spans["inside"]) == 2
    phases = {span.span_id: span.trace_id for span in spans["lint"]}
    assert all(phases.get(span.parent_span_id) == span.trace_id for span in spans["inside"])
