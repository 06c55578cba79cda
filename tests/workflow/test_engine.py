"""The engine: every start event has exactly one end event, and results are right."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from spanbus import open_runtime
from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Command, Phase, Workflow, command
from spanbus._workflow.engine import BasicWorkflowEngine, PhaseContext, RunOptions, RunResult
from spanbus._workflow.events import Event
from spanbus.errors import DefinitionError, PhaseLost, PhaseRevoked

pytestmark = pytest.mark.anyio

ENDS = {"workflow.phase.completed", "workflow.phase.failed", "workflow.phase.cancelled"}


async def run(
    workflow: Workflow, options: RunOptions | None = None, **engine: object
) -> tuple[RunResult, list[Event]]:
    bus = WorkflowEventBus()
    seen: list[Event] = []
    bus.subscribe(None, seen.append)
    result = await BasicWorkflowEngine(bus, **engine).run(workflow, options)  # type: ignore[arg-type]
    return result, seen


def ends(events: list[Event], phase: str) -> list[str]:
    return [
        event.event_type.rpartition(".")[2]
        for event in events
        if event.phase == phase and event.event_type in ENDS
    ]


def rows(result: RunResult) -> list[tuple[str, str, str | None, int]]:
    return [(phase.name, phase.result, phase.error_type, phase.attempts) for phase in result.phases]


async def test_every_outcome_has_its_own_result() -> None:
    def no() -> bool:
        return False

    def broken() -> None:
        raise KeyError("k")

    async def slow() -> None:
        await anyio.sleep(30)

    workflow = Workflow(
        "w",
        (
            Phase("ok", lambda: None),
            Phase("no", no),
            Phase("broken", broken),
            Phase("slow", slow, timeout_s=0.05),
            Phase("exit", command=command("false")),
            Phase("missing", command=command("no-such-program-here")),
            Phase("after", lambda: None, needs=("no",)),
            Phase("always", lambda: None, needs=("no",), when="always"),
            Phase("rescue", lambda: None, needs=("no",), when="failure"),
        ),
    )
    result, events = await run(workflow)
    assert rows(result) == [
        ("ok", "success", None, 1),
        ("no", "failure", "unsuccessful", 1),
        ("broken", "failure", "KeyError", 1),
        ("slow", "timeout", "timeout", 1),
        ("exit", "failure", "unsuccessful", 1),
        ("missing", "failure", "unsuccessful", 1),
        ("after", "skip", None, 0),
        ("always", "success", None, 1),
        ("rescue", "success", None, 1),
    ]
    for phase in ("ok", "no", "broken", "slow", "exit", "missing", "always", "rescue"):
        assert len(ends(events, phase)) == 1
    assert [event.event_type for event in events].count("workflow.failed") == 1


async def test_a_retry_waits_and_then_succeeds() -> None:
    tried: list[int] = []

    def flaky(context: PhaseContext) -> None:
        tried.append(context.attempt)
        if context.attempt < 3:
            raise ConnectionError("not yet")

    result, events = await run(Workflow("w", (Phase("a", flaky, retries=5, retry_backoff_s=0.01),)))
    assert rows(result) == [("a", "success", None, 3)]
    assert tried == [1, 2, 3]
    assert [event.event_type for event in events].count("workflow.phase.retrying") == 2


async def test_cancelling_ends_every_open_phase_and_the_run() -> None:
    bus = WorkflowEventBus()
    seen: list[Event] = []
    bus.subscribe(None, seen.append)

    async def slow() -> None:
        await anyio.sleep(30)

    workflow = Workflow(
        "w",
        (
            Phase("a", slow),
            Phase("b", command=command([sys.executable, "-c", "import time; time.sleep(30)"])),
        ),
    )
    with anyio.move_on_after(0.3) as scope:
        await BasicWorkflowEngine(bus).run(workflow)
    assert scope.cancelled_caught
    assert ends(seen, "a") == ["cancelled"] and ends(seen, "b") == ["cancelled"]
    assert seen[-1].event_type == "workflow.interrupted"


async def test_system_exit_in_a_phase_is_published_and_raised() -> None:
    bus = WorkflowEventBus()
    seen: list[Event] = []
    bus.subscribe(None, seen.append)

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await BasicWorkflowEngine(bus).run(Workflow("w", (Phase("a", leave),)))
    assert ends(seen, "a") == ["failed"]
    assert seen[-1].event_type == "workflow.interrupted"


async def test_a_timeout_kills_the_whole_process_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    result, _ = await run(
        Workflow("w", (Phase("a", command=command([sys.executable, "-c", script]), timeout_s=1.5),))
    )
    assert rows(result) == [("a", "timeout", "timeout", 1)]
    grandchild = int(pid_file.read_text())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(grandchild, 0)
            if Path(f"/proc/{grandchild}/stat").read_text().split()[2] == "Z":
                return
        except (ProcessLookupError, FileNotFoundError):
            return
        await anyio.sleep(0.02)
    pytest.fail("the grandchild outlived the time-out")


async def test_all_hooks_run_in_order_with_events() -> None:
    hooks = (
        Command(("true",), name="first"),
        Command(("false",), name="second"),
        Command(("true",), name="third"),
    )
    result, events = await run(Workflow("w", (Phase("fast", "fast_hooks", hooks=hooks),)))
    assert rows(result) == [("fast", "failure", "unsuccessful", 1)]
    told = [
        (event.event_type.rpartition(".")[2], event.payload.get("hook"))
        for event in events
        if event.event_type.startswith("hooks.execution")
    ]
    assert told == [
        ("started", "first"),
        ("completed", "first"),
        ("started", "second"),
        ("failed", "second"),
        ("started", "third"),
        ("completed", "third"),
    ]


async def test_deselected_phases_are_skipped_and_do_not_stop_others() -> None:
    workflow = Workflow(
        "w",
        (
            Phase("a", lambda: None),
            Phase("b", lambda: None, needs=("a",)),
            Phase("c", lambda: None),
        ),
    )
    result, events = await run(workflow, RunOptions(only=("b",)))
    assert rows(result) == [
        ("a", "skip", None, 0),
        ("b", "success", None, 1),
        ("c", "skip", None, 0),
    ]
    assert [event.event_type for event in events].count("workflow.phase.skipped") == 2
    with pytest.raises(DefinitionError, match="did you mean 'a'"):
        await run(workflow, RunOptions(skip=("aa",)))


async def test_an_unknown_option_is_refused_before_any_event(
    tmp_path: Path,
) -> None:
    seen: list[Event] = []
    async with open_runtime(state_dir=tmp_path, local="off") as runtime:
        runtime.bus.subscribe(None, seen.append)
        with pytest.raises(TypeError, match="'onyl'; did you mean 'only'"):
            await runtime.run(Workflow("w", (Phase("a", lambda: None),)), onyl=("a",))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    assert seen == []


async def test_run_options_can_be_unpacked_as_keywords(tmp_path: Path) -> None:
    options = RunOptions(only=("b",), run_id="r1", concurrency=1, output=None, cwd=None)
    workflow = Workflow("w", (Phase("a", lambda: None), Phase("b", lambda: None)))
    async with open_runtime(state_dir=tmp_path, local="off") as runtime:
        result = await runtime.run(workflow, **options)
    assert result.run_id == "r1"
    assert rows(result) == [("a", "skip", None, 0), ("b", "success", None, 1)]


async def test_output_is_streamed_and_its_tail_is_kept() -> None:
    lines: list[tuple[str, str, str]] = []
    script = "import sys\nfor n in range(3): print('line', n)\nsys.exit(1)"
    workflow = Workflow("w", (Phase("a", command=command([sys.executable, "-c", script])),))
    _, events = await run(workflow, RunOptions(output=lambda *line: lines.append(line)))
    assert [line for _, _, line in lines] == ["line 0", "line 1", "line 2"]
    failed = next(event for event in events if event.event_type == "workflow.phase.failed")
    assert failed.payload["output_tail"] == "line 0\nline 1\nline 2"


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    size = draw(st.integers(1, 8))
    return {
        f"p{index}": [f"p{need}" for need in draw(st.sets(st.integers(0, index - 1)))]
        if index
        else []
        for index in range(size)
    }


@settings(max_examples=examples(30), deadline=None)
@given(graph=graphs(), concurrency=st.integers(1, 3))
def test_every_phase_runs_once_after_its_needs_within_the_concurrency(
    graph: dict[str, list[str]], concurrency: int
) -> None:
    order: list[str] = []
    running = 0
    most = 0

    async def work(context: PhaseContext) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        order.append(context.phase)

    workflow = Workflow(
        "w", tuple(Phase(name, work, needs=tuple(needs)) for name, needs in graph.items())
    )

    async def main() -> RunResult:
        return await BasicWorkflowEngine(WorkflowEventBus(), concurrency=concurrency).run(workflow)

    result = anyio.run(main)
    assert result.success
    assert sorted(order) == sorted(graph)
    assert all(
        order.index(need) < order.index(name) for name, needs in graph.items() for need in needs
    )
    assert most <= concurrency


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        (
            [{"name": "a", "run": "x", "needs": ["b"]}, {"name": "b", "run": "x", "needs": ["a"]}],
            "a needs b needs a",
        ),
        ([{"name": "a", "run": "x"}, {"name": "a", "run": "x"}], "two phases named 'a'"),
        (
            [{"name": "a", "run": "x", "needs": ["lint"]}, {"name": "lint-all", "run": "x"}],
            "needs 'lint', which is not a phase",
        ),
        ([{"name": "a", "run": "x", "timeot": "1m"}], "did you mean 'timeout'"),
        ([{"name": "a", "run": "x", "timeout": "soon"}], "must be seconds or a text"),
        ([{"name": "a", "run": "it's"}], "cannot be split"),
        ([], "has no phases"),
    ],
)
def test_an_invalid_workflow_is_refused_with_a_reason(
    phases: list[dict[str, object]], said: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        Workflow.from_mapping("w", {"phases": phases})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "anyio_backend", ["asyncio"]
)  # only there can code raise a cancellation that nobody asked for
async def test_a_phase_that_awaits_something_cancelled_ends_as_cancelled() -> None:
    async def awaits_a_cancelled_task() -> None:
        import asyncio

        task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        task.cancel()
        await task

    workflow = Workflow(
        "w",
        (
            Phase("a", awaits_a_cancelled_task),
            Phase("after", lambda: None, needs=("a",)),
            Phase("always", lambda: None, needs=("a",), when="always"),
        ),
    )
    with anyio.fail_after(10):
        result, events = await run(workflow)
    assert [(phase.name, phase.result) for phase in result.phases] == [
        ("a", "cancellation"),
        ("after", "skip"),
        ("always", "success"),
    ]
    assert (result.result, result.success) == ("cancellation", False)
    assert ends(events, "a") == ["cancelled"]
    assert [event.event_type for event in events][-1] == "workflow.interrupted"


async def test_a_result_without_success_may_have_an_error_text() -> None:
    result, events = await run(
        Workflow("w", (Phase("a", lambda: {"success": False, "error": "2 of 9 files differ"}),))
    )
    assert result.phases[0].error == "2 of 9 files differ"
    assert events[-1].payload["error"] == "phase a failed: 2 of 9 files differ"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"action": None}, "action must be a function"),
        ({"action": lambda: None, "when": "sometimes"}, "when must be"),
        ({"action": lambda: None, "retries": "3"}, "retries must be a number"),
        ({"action": lambda: None, "timeout_s": "3s"}, "timeout_s must be a number"),
    ],
)
def test_an_invalid_phase_is_refused_when_it_is_created(
    wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        Phase("a", **wrong)  # type: ignore[arg-type]


def test_needs_may_be_one_name() -> None:
    assert Phase("b", lambda: None, needs="lint").needs == ("lint",)  # type: ignore[arg-type]


async def test_lost_and_revoked_tasks_end_as_failure_and_cancellation() -> None:
    def lost() -> None:
        raise PhaseLost("Worker exited prematurely: signal 9 (SIGKILL)")

    def revoked() -> None:
        raise PhaseRevoked("the task was revoked")

    result, seen = await run(
        Workflow("w", (Phase("lost", action=lost), Phase("revoked", action=revoked)))
    )
    assert rows(result) == [("lost", "error", "killed", 1), ("revoked", "cancellation", None, 1)]
    assert ends(seen, "lost") == ["failed"] and ends(seen, "revoked") == ["cancelled"]
    [end] = [event for event in seen if event.event_type == "workflow.phase.cancelled"]
    assert end.payload["reason"] == "the task was revoked"
    result, _ = await run(Workflow("w", (Phase("revoked", action=revoked, retries=3),)))
    assert result.result == "cancellation" and result.phases[0].attempts == 1
