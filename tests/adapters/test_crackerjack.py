"""crackerjack 0.74 and Oneiric, which executes its workflow: what is recorded by the one line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from crackerjack.core import ai_fix_events as fixes
from crackerjack.core.ai_fix_event_bus import AIFixEventBus
from crackerjack.core.autofix_coordinator import AutofixCoordinator
from crackerjack.core.workflow_orchestrator import WorkflowPipeline
from oneiric.core.config import LayerSettings
from oneiric.core.lifecycle import LifecycleManager
from oneiric.core.resolution import Candidate, Resolver
from oneiric.domains.tasks import TaskBridge
from oneiric.domains.workflows import WorkflowBridge
from oneiric.runtime.dag import DAGExecutionHooks, DAGTask, build_graph, execute_dag
from oneiric.runtime.events import EventDispatcher, EventHandler, create_event_envelope
from opentelemetry import trace

import spanbus

Drawn = Callable[[], list[str]]
Action = Callable[[], Awaitable[object]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """crackerjack keeps its checkpoints in the folder it works in."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


# --- crackerjack -----------------------------------------------------------------------------------------------------


class Phases:
    """The phases of a project: each does what is said of it here, else it succeeds."""

    def __init__(self, **actions: Action) -> None:
        self._actions = actions

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("run_"):
            raise AttributeError(name)

        async def phase(options: object) -> object:
            action = self._actions.get(name.removeprefix("run_"))
            return True if action is None else await action()

        return phase


async def pipeline(**actions: Action) -> bool:
    options = SimpleNamespace(skip_hooks=True, no_coverage_ratchet=True, test=True)
    return await WorkflowPipeline(phases=Phases(**actions)).run_complete_workflow(options)


@pytest.fixture
def watched(runtime: spanbus.Runtime) -> Generator[spanbus.Handle]:
    handle = runtime.instrument(WorkflowPipeline)
    yield handle
    handle.detach()
    assert handle.state().errors == 0


@pytest.mark.usefixtures("watched")
def test_a_workflow_of_crackerjack(drawn: Drawn) -> None:
    seen: list[int] = []

    async def tests() -> bool:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return True

    assert asyncio.run(pipeline(testing_phase=tests))
    assert drawn() == [
        "RUN crackerjack success",
        "  commit success",
        "  configuration success",
        "  publishing success",
        "  tests success",
    ]
    assert seen != [0]


@pytest.mark.usefixtures("watched")
def test_a_phase_that_fails_and_what_the_next_workflow_takes_from_the_checkpoint(
    drawn: Drawn,
) -> None:
    async def fail() -> bool:
        return False

    async def late() -> bool:
        raise TimeoutError("60 s")

    assert not asyncio.run(pipeline(testing_phase=fail))
    assert not asyncio.run(pipeline(publishing_phase=late))
    assert drawn() == [
        "RUN crackerjack failure oneiric.runtime.dag.DAGExecutionError",
        "  configuration skip",
        "  publishing timeout timeout",
        "  tests success",
        "RUN crackerjack failure oneiric.runtime.dag.DAGExecutionError",
        "  configuration success",
        "  tests failure RuntimeError",
    ]


@pytest.mark.usefixtures("watched")
def test_a_workflow_that_is_cancelled(drawn: Drawn) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def long() -> None:
            began.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(pipeline(testing_phase=long))
        await asyncio.wait_for(began.wait(), 20)
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.cancelled()

    asyncio.run(main())
    assert drawn() == [
        "RUN crackerjack cancellation",
        "  configuration success",
        "  tests cancellation",
    ]


def test_one_pipeline_alone(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    options = SimpleNamespace(skip_hooks=True, no_coverage_ratchet=True)
    mine, other = WorkflowPipeline(phases=Phases()), WorkflowPipeline(phases=Phases())
    handle = runtime.instrument(mine)
    assert asyncio.run(other.run_complete_workflow(options))
    assert asyncio.run(mine.run_complete_workflow(options))
    handle.detach()
    assert asyncio.run(mine.run_complete_workflow(options))
    assert drawn() == [
        "RUN crackerjack success",
        "  commit success",
        "  configuration success",
        "  publishing success",
    ]


async def fixed(bus: AIFixEventBus, run_id: str, *, helps: bool) -> None:
    """What crackerjack says of a run of its fixes: the second iteration may help."""
    one: dict[str, Any] = {"run_id": run_id, "iteration": 1, "agent": "formatter", "file": "a.py"}
    for success in (False, helps):
        await bus.emit(fixes.IterationStarted(run_id, 1, issue_count=2))
        await bus.emit(fixes.AgentDispatched(**one, action="fix", issue_type="format"))
        if success:
            await bus.emit(fixes.IssueResolved(**one, duration_s=0.1))
        else:
            await bus.emit(fixes.IssueFailed(**one, reason="no rule"))
        await bus.emit(fixes.IterationFinished(run_id, 1, success=success))


def test_the_bus_of_its_fixes(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    bus = AIFixEventBus()
    handle = runtime.instrument(bus)

    async def run(run_id: str, *, helps: bool) -> None:
        await bus.emit(fixes.RunStarted(run_id, 0, stage="fast", initial_issue_count=2))
        await bus.emit(fixes.PreflightStarted(run_id, 0, tools=("ruff_check",)))
        await bus.emit(fixes.PreflightFinished(run_id, 0, issues_saved=1, duration_s=0.1))
        await fixed(bus, run_id, helps=helps)
        await bus.emit(fixes.RunFinished(run_id, 0, success=helps))

    async def main() -> None:
        await asyncio.gather(run("a", helps=True), run("b", helps=False))

    asyncio.run(main())
    assert handle.state().errors == 0
    assert drawn() == [
        "RUN fixes fast failure unsuccessful",
        "  iteration failure unsuccessful",
        "    formatter failure unsuccessful",
        "    iteration attempt 1 failure unsuccessful",
        "    iteration attempt 2 failure unsuccessful",
        "      formatter failure unsuccessful",
        "  preflight success",
        "RUN fixes fast success",
        "  iteration success",
        "    formatter failure unsuccessful",
        "    iteration attempt 1 failure unsuccessful",
        "    iteration attempt 2 success",
        "      formatter success",
        "  preflight success",
    ]


def test_its_coordinator_announces_no_end(
    runtime: spanbus.Runtime, drawn: Drawn, tmp_path: Path
) -> None:
    """Neither 0.74.4 nor those before it say how a run of fixes ended: it ends with its task."""
    bus = AIFixEventBus()
    handle = runtime.instrument(bus)

    async def main() -> None:
        coordinator = AutofixCoordinator(pkg_path=tmp_path, event_bus=bus)
        await coordinator.apply_autofix_for_hooks("comprehensive", [])

    asyncio.run(main())
    assert handle.state().errors == 0
    assert drawn() == ["RUN fixes comprehensive success"]


# --- Oneiric ---------------------------------------------------------------------------------------------------------


class Task:
    """A task that does what it is told."""

    def __init__(self, action: Action) -> None:
        self._action = action

    async def run(self, payload: object = None) -> object:
        return await self._action()


def bridge(nodes: list[dict[str, object]], **tasks: Action) -> WorkflowBridge:
    resolver = Resolver()
    lifecycle = LifecycleManager(resolver)
    for name, action in tasks.items():
        factory = lambda action=action: Task(action)  # noqa: E731
        resolver.register(Candidate(domain="task", key=name, provider="here", factory=factory))
    resolver.register(
        Candidate(
            domain="workflow",
            key="nightly",
            provider="here",
            factory=object,
            metadata={"dag": {"nodes": nodes}},
        )
    )
    settings = LayerSettings()
    return WorkflowBridge(
        resolver, lifecycle, settings, task_bridge=TaskBridge(resolver, lifecycle, settings)
    )


async def ok() -> str:
    return "ok"


@pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")
def test_a_workflow_of_oneiric_with_its_attempts(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    calls: list[int] = []

    async def flaky() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("refused")
        return "ok"

    retried = {"attempts": 3, "base_delay": 0.001}
    workflow = bridge(
        [
            {"id": "fetch", "task": "flaky", "retry_policy": retried},
            {"id": "build", "task": "ok", "depends_on": ["fetch"]},
            {"id": "lint", "task": "ok", "depends_on": ["fetch"]},
        ],
        flaky=flaky,
        ok=ok,
    )
    runtime.instrument(workflow)
    result = asyncio.run(workflow.execute_dag("nightly", run_id="r7"))
    assert result["run_id"] == "r7" and result["results"]["fetch__attempts"] == 3
    asyncio.run(workflow.execute_dag("nightly", checkpoint={"fetch": "ok"}))
    assert drawn() == [
        "RUN nightly success",
        "  build success",
        "  fetch skip",
        "  lint success",
        "RUN nightly success",
        "  build success",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 failure ConnectionError",
        "    fetch attempt 3 success",
        "  lint success",
    ]


def test_two_workflows_at_once(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    seen: set[int] = set()

    async def main() -> None:
        together = asyncio.Barrier(2)

        async def meet() -> None:
            await together.wait()
            seen.add(trace.get_current_span().get_span_context().span_id)

        workflow = bridge([{"id": "meet", "task": "meet"}], meet=meet)
        runtime.instrument(workflow)
        both = asyncio.gather(workflow.execute_dag("nightly"), workflow.execute_dag("nightly"))
        await asyncio.wait_for(both, 20)

    asyncio.run(main())
    assert len(seen) == 2 and 0 not in seen
    assert drawn() == ["RUN nightly success", "  meet success"] * 2


def test_a_time_limit_from_outside(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    async def main() -> None:
        workflow = bridge([{"id": "wait", "task": "wait"}], wait=asyncio.Event().wait)
        runtime.instrument(workflow)
        with anyio.move_on_after(0.05):
            await workflow.execute_dag("nightly")

    asyncio.run(main())
    assert drawn() == ["RUN nightly cancellation", "  wait cancellation"]


def test_the_hooks_of_an_execution(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    heard: list[str] = []
    seen: list[int] = []

    async def told(*, node: str, **_: object) -> None:
        heard.append(node)

    async def look() -> str:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return "ok"

    async def fail() -> str:
        raise ValueError("no")

    hooks = DAGExecutionHooks(on_node_complete=told)
    handle = runtime.instrument(hooks)
    fetch = DAGTask(key="fetch", runner=look)
    tasks = [
        fetch,
        DAGTask(key="build", runner=ok, depends_on=("fetch",)),
        DAGTask(key="test", runner=fail, depends_on=("build",)),
    ]

    async def main() -> None:
        await execute_dag(
            build_graph([fetch]), hooks=hooks, workflow_key="one", checkpoint={"fetch": "ok"}
        )
        with pytest.raises(Exception, match="test failed"):
            await execute_dag(build_graph(tasks), hooks=hooks, workflow_key="nightly")

    asyncio.run(main())
    assert heard == ["fetch", "build"] and seen != [0]
    assert handle.state().errors == 0
    handle.detach()
    assert hooks.on_node_complete is told and hooks.on_run_start is None
    assert drawn() == [
        "RUN nightly failure _OTHER",
        "  build success",
        "  fetch success",
        "  test failure _OTHER",
        "RUN one success",
        "  fetch skip",
    ]


def test_hooks_do_not_tell_of_what_is_cancelled_but_its_task_does(
    runtime: spanbus.Runtime, drawn: Drawn
) -> None:
    hooks = DAGExecutionHooks()
    handle = runtime.instrument(hooks)

    async def main() -> None:
        began = asyncio.Event()

        async def long() -> None:
            began.set()
            await asyncio.Event().wait()

        graph = build_graph([DAGTask(key="long", runner=long)])
        task = asyncio.ensure_future(execute_dag(graph, hooks=hooks, workflow_key="nightly"))
        await asyncio.wait_for(began.wait(), 20)
        task.cancel()
        await asyncio.wait([task], timeout=20)

    asyncio.run(main())
    handle.detach()
    assert drawn() == ["RUN nightly cancellation", "  long cancellation"]


def test_its_dispatcher_is_a_bus_like_any_other(runtime: spanbus.Runtime, drawn: Drawn) -> None:
    heard: list[str] = []

    async def receive(envelope: Any) -> None:
        heard.append(envelope.topic)

    dispatcher = EventDispatcher([EventHandler("mine", receive, topics=["task.started"])])
    runtime.instrument(dispatcher)

    async def main() -> None:
        for topic, payload in (
            ("run.started", {"workflow": "nightly"}),
            ("task.started", {"task": "fetch"}),
            ("task.failed", {"task": "fetch", "error": "ConnectionError: refused"}),
            ("task.started", {"task": "fetch"}),
            ("task.completed", {"task": "fetch"}),
            ("run.completed", {}),
        ):
            payload["run_id"] = "7"
            await dispatcher.dispatch(create_event_envelope(topic, payload, source="a test"))

    asyncio.run(main())
    assert heard == ["task.started", "task.started"]
    assert drawn() == [
        "RUN nightly success",
        "  fetch success",
        "    fetch attempt 1 failure ConnectionError",
        "    fetch attempt 2 success",
    ]


def test_the_example_of_the_documents(example: Callable[[str], list[str]], drawn: Drawn) -> None:
    expected = example("crackerjack")
    assert drawn() == expected
