"""Wrap mode: the current span in the publisher's task, among spans of the application."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import anyio
import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader
from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.template import Template
from spanbus._telemetry.tracer_spans import TracerSpans


class Bus:
    def __init__(self) -> None:
        self.handlers: list[Callable[[object], object]] = []

    def subscribe(self, handler: Callable[[object], object]) -> None:
        self.handlers.append(handler)

    def publish(self, event_type: str, **payload: object) -> None:
        for handler in self.handlers:
            handler({"type": event_type, "payload": {"job_id": "j", **payload}})

    def run(self, word: str) -> None:
        self.publish(f"job.{word}", workflow="w")

    def phase(self, name: str, word: str) -> None:
        self.publish(f"task.{word}", task=name)


class Application:
    """An application with its own tracer provider and a bus in wrap mode."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("application")
        self.bus = Bus()
        sink = TracerSpans(self.tracer, Template(Redactor()), ambient=otel_context.get_current)
        attach(
            self.bus,
            Handle(Correlator([sink]), Reader(load("generic")), label="a bus"),
            mode="wrap",
        )

    def mark(self, name: str) -> None:
        self.tracer.start_span(name).end()

    def parents(self) -> dict[str, str | None]:
        spans = self.exporter.get_finished_spans()
        names = {span.context.span_id: span.name for span in spans}
        return {
            span.name: names.get(span.parent.span_id) if span.parent is not None else None
            for span in spans
        }


def in_a_task(work: Callable[[Application], None]) -> dict[str, str | None]:
    application = Application()

    async def run() -> None:
        work(application)

    anyio.run(run)
    application.provider.shutdown()
    return application.parents()


def test_a_span_around_only_the_start_is_not_restored_at_the_end() -> None:
    def work(app: Application) -> None:
        with app.tracer.start_as_current_span("around the start"):
            app.bus.run("started")
            app.bus.phase("lint", "started")
        app.bus.phase("lint", "completed")
        app.bus.run("completed")
        app.mark("after")

    parents = in_a_task(work)
    assert parents["RUN w"] == "around the start"
    assert parents["after"] is None


def test_a_span_around_only_the_end_stays_current_until_it_ends() -> None:
    def work(app: Application) -> None:
        app.bus.run("started")
        app.bus.phase("lint", "started")
        with app.tracer.start_as_current_span("around the end"):
            app.bus.phase("lint", "completed")
            app.mark("still inside")
        app.bus.publish("a.note")
        app.mark("in the run")
        app.bus.run("completed")
        app.mark("after")

    parents = in_a_task(work)
    assert (parents["around the end"], parents["still inside"]) == ("lint", "around the end")
    assert (parents["in the run"], parents["after"]) == ("RUN w", None)


def test_a_span_between_run_and_phase_is_current_again_after_the_phase() -> None:
    def work(app: Application) -> None:
        with app.tracer.start_as_current_span("request"):
            app.bus.run("started")
            with app.tracer.start_as_current_span("preparation"):
                app.bus.phase("lint", "started")
                app.mark("in lint")
                app.bus.phase("lint", "completed")
                app.mark("in preparation")
            app.mark("in the run")
            app.bus.run("completed")
            app.mark("in the request")

    parents = in_a_task(work)
    assert [
        parents[name]
        for name in ("RUN w", "in lint", "in preparation", "in the run", "in the request")
    ] == [
        "request",
        "lint",
        "preparation",
        "RUN w",
        "request",
    ]


def test_of_concurrent_phases_in_one_task_the_last_open_one_is_current() -> None:
    def work(app: Application) -> None:
        app.bus.run("started")
        app.bus.phase("a", "started")
        app.bus.phase("b", "started")
        app.bus.phase("a", "completed")
        app.mark("a is done")
        app.bus.phase("c", "started")
        app.bus.phase("b", "completed")
        app.mark("b is done")
        app.bus.phase("c", "completed")
        app.mark("all are done")

    parents = in_a_task(work)
    assert [parents[name] for name in ("a is done", "b is done", "all are done")] == [
        "b",
        "c",
        None,
    ]  # the run is open: its span is not finished


def test_other_values_in_the_applications_context_are_kept() -> None:
    def work(app: Application) -> None:
        app.bus.run("started")
        otel_context.attach(baggage.set_baggage("user", "7"))
        app.bus.phase("lint", "started")
        otel_context.attach(baggage.set_baggage("tenant", "blue"))
        app.bus.phase("lint", "completed")
        app.bus.run("completed")
        assert dict(baggage.get_all()) == {"user": "7", "tenant": "blue"}
        assert not trace.get_current_span().get_span_context().is_valid

    in_a_task(work)


@pytest.mark.parametrize("phases", [1, 200])
def test_between_phases_the_run_is_current_and_after_the_run_nothing(
    phases: int,
) -> None:
    def work(app: Application) -> None:
        app.bus.run("started")
        for number in range(phases):
            app.bus.phase(f"phase {number}", "started")
            app.mark(f"inside {number}")
            app.bus.phase(f"phase {number}", "completed")
        app.mark("in the run")
        app.bus.run("completed")
        app.mark("after")

    parents = in_a_task(work)
    assert all(parents[f"inside {number}"] == f"phase {number}" for number in range(phases))
    assert (parents["in the run"], parents["after"]) == ("RUN w", None)


def test_phases_ended_by_other_tasks_do_not_pile_up_in_the_context() -> None:
    def work(app: Application) -> None:
        for number in range(300):
            app.bus.phase(f"phase {number}", "started")
            app.mark(f"inside {number}")
            elsewhere = contextvars.Context()
            elsewhere.run(app.bus.phase, f"phase {number}", "completed")
        assert (
            max(
                len(value)
                for value in contextvars.copy_context().values()
                if isinstance(value, tuple)
            )
            <= 4
        )  # pyright: ignore[reportUnknownArgumentType]
        app.bus.publish("a.note")
        app.mark("after")

    parents = in_a_task(work)
    assert all(parents[f"inside {number}"] == f"phase {number}" for number in range(300))
    assert parents["after"] is None


def test_between_two_attempts_the_run_is_current() -> None:
    def work(app: Application) -> None:
        app.bus.run("started")
        app.bus.phase("lint", "started")
        app.mark("in the first attempt")
        app.bus.phase("lint", "failed")
        app.mark("between")
        app.bus.phase("lint", "started")
        app.mark("in the second attempt")
        app.bus.phase("lint", "completed")
        app.mark("after it")
        app.bus.run("completed")

    parents = in_a_task(work)
    assert parents["in the first attempt"] == "lint"
    assert parents["between"] == "RUN w"
    assert parents["in the second attempt"] == "lint attempt 2"
    assert parents["after it"] == "RUN w"
