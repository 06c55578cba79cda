"""Each result of a phase or run, from the real engine or a foreign stream, as spans and metrics of the real SDK."""

from __future__ import annotations

import itertools

import anyio
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from rendered import PROVIDERS, Provider, Rendered

from spanbus._semantics import ErrorType, names
from spanbus._workflow.definition import Command, Phase, Workflow
from spanbus._workflow.engine import RunOptions

pytestmark = pytest.mark.anyio


class ParcelLost(Exception):
    """An exception of the application."""


@pytest.fixture(params=PROVIDERS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    provider: Provider = request.param
    return Rendered(provider)


def one(phase: Phase) -> Workflow:
    return Workflow("w", (phase,))


def told(span: ReadableSpan) -> tuple[object, ...]:
    """Return result, status and error type of a span."""
    attributes = span.attributes or {}
    result = (
        attributes.get(names.PIPELINE_RESULT)
        or attributes.get(names.TASK_RESULT)
        or attributes.get(names.HOOK_RESULT)
    )
    return result, span.status.status_code, attributes.get(names.ERROR_TYPE)


def exceptions(rendered: Rendered) -> list[tuple[str, object]]:
    return [
        (span.name, (event.attributes or {})[names.EXCEPTION_TYPE])
        for span in rendered.spans
        for event in span.events
        if event.name == "exception"
    ]


def counted(rendered: Rendered) -> tuple[float, float]:
    """Return the counts of phase failures and retries; both series must exist."""
    return rendered.numbers(names.PHASE_FAILURES)[("w", "p")], rendered.numbers(
        names.PHASE_RETRIES
    )[("w", "p")]


def assert_durations(rendered: Rendered, result: str, error_type: str | None) -> None:
    [phase] = rendered.histogram(names.PHASE_DURATION)
    assert phase.attributes is not None
    assert (phase.attributes[names.TASK_NAME], phase.attributes[names.TASK_RESULT]) == ("p", result)
    assert phase.attributes.get(names.ERROR_TYPE) == error_type
    assert phase.count == 1
    span = rendered.span("p (skip)" if result == "skip" else "p")
    assert phase.sum == pytest.approx(
        ((span.end_time or 0) - (span.start_time or 0)) / 1e9, abs=0.002
    )
    assert set(rendered.numbers(names.PHASE_LAST_RUN)) == {("w", "p", result)}


async def test_success(rendered: Rendered) -> None:
    await rendered.run(one(Phase("p", lambda: None)))
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w"))
        == ("success", StatusCode.UNSET, None)
    )
    assert counted(rendered) == (0, 0)
    assert rendered.numbers(names.RUN_ERRORS) == {}
    assert exceptions(rendered) == []
    assert_durations(rendered, "success", None)


async def test_an_exception(rendered: Rendered) -> None:
    def action() -> None:
        raise ParcelLost("no parcel; password=hunter2")

    await rendered.run(one(Phase("p", action)))
    kind = f"{__name__}.ParcelLost"
    span = rendered.span("p")
    assert told(span) == ("failure", StatusCode.ERROR, kind)
    assert span.status.description == "no parcel; password=REDACTED"
    assert told(rendered.span("RUN w")) == ("failure", StatusCode.ERROR, kind)
    assert counted(rendered) == (1, 0)
    assert rendered.numbers(names.RUN_ERRORS) == {("w", kind): 1}
    assert exceptions(rendered) == [("p", kind)]
    [event] = [event for event in span.events if event.name == "exception"]
    assert event.attributes is not None
    assert event.attributes[names.EXCEPTION_MESSAGE] == "no parcel; password=REDACTED"
    assert "ParcelLost: no parcel; password=REDACTED" in str(
        event.attributes[names.EXCEPTION_STACKTRACE]
    )
    assert "hunter2" not in str(
        [(one.attributes, [event.attributes for event in one.events]) for one in rendered.spans]
    )
    assert_durations(rendered, "failure", kind)


async def test_the_error_type_of_a_builtin_exception_has_no_module(rendered: Rendered) -> None:
    def action() -> None:
        raise ValueError("x")

    await rendered.run(one(Phase("p", action)))
    assert told(rendered.span("p")) == ("failure", StatusCode.ERROR, "ValueError")


def test_an_error_text_without_a_class_is_other(rendered: Rendered) -> None:
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", run_id="r", phase="p")
    rendered.say("workflow.phase.failed", {"error": "something is wrong"}, run_id="r", phase="p")
    rendered.say("workflow.failed", {"error": "something is wrong"}, run_id="r")
    assert told(rendered.span("p")) == ("failure", StatusCode.ERROR, "_OTHER")
    assert rendered.span("p").status.description == "something is wrong"
    assert exceptions(rendered) == []


@pytest.mark.parametrize("value", [False, {"success": False}])
async def test_a_phase_that_returns_false_is_unsuccessful(
    rendered: Rendered, value: object
) -> None:
    await rendered.run(one(Phase("p", lambda: value)))
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w"))
        == ("failure", StatusCode.ERROR, "unsuccessful")
    )
    assert counted(rendered) == (1, 0)
    assert exceptions(rendered) == []
    assert_durations(rendered, "failure", "unsuccessful")


async def test_a_command_with_an_exit_code(rendered: Rendered) -> None:
    await rendered.run(
        one(Phase("p", "command", command=Command(("sh", "-c", "echo the end; exit 3"))))
    )
    phase, command = rendered.span("p"), rendered.span("sh")
    assert told(phase) == told(command) == ("failure", StatusCode.ERROR, "unsuccessful")
    assert command.parent is not None
    assert command.parent.span_id == phase.get_span_context().span_id
    attributes = command.attributes or {}
    assert (attributes[names.PROCESS_EXIT_CODE], attributes[names.PROCESS_EXECUTABLE]) == (3, "sh")
    assert "the end" in str(attributes[names.OUTPUT_TAIL])
    assert counted(rendered) == (1, 0)
    assert_durations(rendered, "failure", "unsuccessful")


async def test_a_time_out(rendered: Rendered) -> None:
    async def action() -> None:
        await anyio.sleep(60)

    await rendered.run(one(Phase("p", action, timeout_s=0.01)))
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w"))
        == ("timeout", StatusCode.ERROR, "timeout")
    )
    assert counted(rendered) == (1, 0)
    assert rendered.numbers(names.RUN_ERRORS) == {("w", "timeout"): 1}
    assert_durations(rendered, "timeout", "timeout")


async def test_a_time_out_that_the_phase_raised(rendered: Rendered) -> None:
    def action() -> None:
        raise TimeoutError("too slow")

    await rendered.run(one(Phase("p", action)))
    assert told(rendered.span("p")) == ("timeout", StatusCode.ERROR, "timeout")


async def test_a_cancellation_is_neither_a_success_nor_a_failure(rendered: Rendered) -> None:
    started = anyio.Event()

    async def action() -> None:
        started.set()
        await anyio.sleep(60)

    async with anyio.create_task_group() as group:
        group.start_soon(rendered.run, one(Phase("p", action)))
        await started.wait()
        group.cancel_scope.cancel()
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w (cancellation)"))
        == ("cancellation", StatusCode.UNSET, None)
    )
    assert counted(rendered) == (0, 0)
    assert rendered.numbers(names.RUN_ERRORS) == {}
    assert exceptions(rendered) == []
    assert_durations(rendered, "cancellation", None)


async def test_a_keyboard_interrupt_is_a_cancellation(rendered: Rendered) -> None:
    async def action() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await rendered.run(one(Phase("p", action)))
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w (cancellation)"))
        == ("cancellation", StatusCode.UNSET, None)
    )
    assert counted(rendered) == (0, 0)


def test_an_interrupted_run_of_a_foreign_bus_is_a_cancellation(rendered: Rendered) -> None:
    rendered.say("workflow.started", {"workflow_id": "w"})
    rendered.say("workflow.interrupted", {"workflow_id": "w"})
    assert told(rendered.span("RUN w (cancellation)")) == ("cancellation", StatusCode.UNSET, None)


async def test_a_skipped_phase(rendered: Rendered) -> None:
    await rendered.run(one(Phase("p", lambda: None)), RunOptions(skip=["p"]))
    span = rendered.span("p (skip)")
    assert told(span) == ("skip", StatusCode.UNSET, None)
    assert (span.attributes or {})[names.SKIP_REASON] == "deselected"
    assert told(rendered.span("RUN w")) == ("success", StatusCode.UNSET, None)
    assert counted(rendered) == (0, 0)
    assert_durations(rendered, "skip", None)


@pytest.mark.parametrize(
    "error_type", [ErrorType.KILLED, ErrorType.TERMINATED, ErrorType.ABANDONED]
)
def test_spans_open_at_close_end_as_errors_with_the_given_type(
    rendered: Rendered, error_type: ErrorType
) -> None:
    rendered.say("workflow.started", {"workflow": "w"}, run_id="r")
    rendered.say("workflow.phase.started", {}, run_id="r", phase="p")
    rendered.correlator.close(error_type=error_type)
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w"))
        == ("error", StatusCode.ERROR, error_type.value)
    )
    assert counted(rendered) == (1, 0)
    assert rendered.numbers(names.RUN_ERRORS) == {("w", error_type.value): 1}
    assert_durations(rendered, "error", error_type.value)


async def test_a_failure_followed_by_a_successful_retry_is_no_failure(rendered: Rendered) -> None:
    tries: list[int] = []

    def action() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ParcelLost("not yet")

    await rendered.run(one(Phase("p", action, retries=2, retry_backoff_s=0.0)))
    assert (
        told(rendered.span("p"))
        == told(rendered.span("RUN w"))
        == ("success", StatusCode.UNSET, None)
    )
    assert (rendered.span("p").attributes or {})[names.PHASE_ATTEMPTS] == 3
    kind = f"{__name__}.ParcelLost"
    attempts = [rendered.span(f"p attempt {number}") for number in (1, 2, 3)]
    assert [told(attempt) for attempt in attempts] == [("failure", StatusCode.ERROR, kind)] * 2 + [
        ("success", StatusCode.UNSET, None)
    ]
    assert counted(rendered) == (0, 2)
    assert exceptions(rendered) == [("p attempt 1", kind), ("p attempt 2", kind)]
    for before, attempt in itertools.pairwise(attempts):
        [link] = attempt.links
        assert (link.context.span_id, dict(link.attributes or {})) == (
            before.get_span_context().span_id,
            {names.LINK_TYPE: "retry_of"},
        )
    assert all(
        attempt.parent is not None
        and attempt.parent.span_id == rendered.span("p").get_span_context().span_id
        for attempt in attempts
    )


async def test_a_failure_of_all_attempts_is_one_failure(rendered: Rendered) -> None:
    def action() -> None:
        raise ParcelLost("never")

    await rendered.run(one(Phase("p", action, retries=1, retry_backoff_s=0.0)))
    kind = f"{__name__}.ParcelLost"
    assert told(rendered.span("p")) == ("failure", StatusCode.ERROR, kind)
    assert counted(rendered) == (1, 1)
    assert exceptions(rendered) == [("p attempt 1", kind), ("p attempt 2", kind)]
