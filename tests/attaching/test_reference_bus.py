"""The reference bus in the default mode: eleven live scenarios, each with its runs, phases and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from reference_bus import ReferenceBus, ReferenceEngine, Step

from spanbus._attaching.attach import attach
from spanbus._attaching.handle import Handle
from spanbus._correlation.correlator import Correlator
from spanbus._correlation.span_state import SpanState
from spanbus._reading.dialect_file import load
from spanbus._reading.reader import Reader

Told = tuple[str, str, list[tuple[str, str, int]]]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio only: the reference engine needs it."""
    return "asyncio"


class Observed:
    """A reference bus with an observer."""

    def __init__(self) -> None:
        self.runs: list[SpanState] = []
        self.bus = ReferenceBus()
        reader = Reader(load("generic"))
        self.correlator = Correlator(policy=reader.dialect.policy, on_run_ended=self.runs.append)
        self.handle = Handle(self.correlator, reader, label="the reference bus")
        attach(self.bus, self.handle)
        self.engine = ReferenceEngine(self.bus)

    def told(self) -> list[Told]:
        self.handle.detach()
        state = self.handle.state()
        assert (state.errors, state.last_error, state.orphan_ends, state.unmatched_ends) == (
            0,
            None,
            0,
            0,
        )
        assert all(self.bus.results)
        return [
            (
                run.name,
                str(run.result),
                [(phase.name, str(phase.result), phase.attempts) for phase in run.children],
            )
            for run in self.runs
        ]


def config() -> Step:
    return Step("config", "Configuration", "config")


def fast(action: Callable[[], Awaitable[object]] | None = None, **options: object) -> Step:
    return Step("fast_hooks", "Fast Hooks", action=action, strategy="fast", **options)  # type: ignore[arg-type]


def comprehensive(**options: object) -> Step:
    return Step("comprehensive", "Comprehensive Hooks", strategy="comprehensive", **options)  # type: ignore[arg-type]


def cleaning(action: Callable[[], Awaitable[object]] | None = None) -> Step:
    return Step("cleaning", "Code Cleaning", action=action)


def standard(first: Step | None = None, last: Step | None = None) -> list[list[Step]]:
    return [[config()], [first or fast(), cleaning()], [last or comprehensive()]]


async def moment() -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return True


def failing(*results: object) -> Callable[[], Awaitable[object]]:
    """An action with these results, one after another; an exception is raised."""
    left = list(results)

    async def action() -> object:
        await asyncio.sleep(0)
        result = left.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result

    return action


OK: list[tuple[str, str, int]] = [
    ("config", "success", 1),
    ("fast_hooks", "success", 1),
    ("cleaning", "success", 1),
    ("comprehensive", "success", 1),
]


@pytest.mark.anyio
async def test_a_standard_run() -> None:
    it = Observed()
    assert await it.engine.run("standard", standard())
    assert it.told() == [("standard", "success", OK)]


@pytest.mark.anyio
async def test_a_run_with_a_skipped_step() -> None:
    it = Observed()
    steps = [[config()], [fast(), cleaning(failing("skipped"))], [comprehensive()]]
    await it.engine.run("standard", steps)
    expected = [row if row[0] != "cleaning" else ("cleaning", "skip", 1) for row in OK]
    assert it.told() == [("standard", "success", expected)]


@pytest.mark.anyio
async def test_a_run_with_publish_and_commit() -> None:
    it = Observed()
    steps = [
        *standard(),
        [Step("publish", "Publish", "publish")],
        [Step("commit", "Commit", "commit")],
    ]
    await it.engine.run("publish", steps)
    assert it.told() == [
        ("publish", "success", [*OK, ("publish", "success", 1), ("commit", "success", 1)])
    ]


@pytest.mark.anyio
async def test_a_step_that_fails_in_both_attempts() -> None:
    it = Observed()
    assert not await it.engine.run("standard", standard(fast(failing(False, False), tries=2)))
    assert it.told() == [
        (
            "standard",
            "failure",
            [("config", "success", 1), ("fast_hooks", "failure", 2), ("cleaning", "success", 1)],
        )
    ]
    state = it.handle.state()
    assert (state.phase_failures, state.run_failures, state.retries) == (1, 1, 1)


@pytest.mark.anyio
async def test_a_step_that_fails_and_then_succeeds() -> None:
    it = Observed()
    await it.engine.run("standard", standard(fast(failing(False, True), tries=2)))
    assert it.told() == [("standard", "success", [OK[0], ("fast_hooks", "success", 2), *OK[2:]])]
    state = it.handle.state()
    assert (state.phase_failures, state.run_failures, state.retries) == (0, 0, 1)


@pytest.mark.anyio
async def test_a_step_that_raises() -> None:
    it = Observed()
    step = Step("cleaning", "Code Cleaning", action=failing(ValueError("ValueError: no")))
    await it.engine.run("standard", [[config()], [step]])
    assert it.told() == [("standard", "failure", [OK[0], ("cleaning", "failure", 1)])]
    failure = it.runs[0].children[1].failure
    assert failure is not None and failure.error_type == "ValueError"


@pytest.mark.anyio
async def test_a_run_whose_tests_fail() -> None:
    it = Observed()
    step = Step("test_workflow", "Test Workflow", action=failing(False))
    await it.engine.run("test", [[config()], [fast(), cleaning()], [step]])
    assert it.told() == [("test", "failure", [*OK[:3], ("test_workflow", "failure", 1)])]
    assert it.handle.state().phase_failures == 1


@pytest.mark.anyio
async def test_a_step_that_times_out() -> None:
    it = Observed()

    async def forever() -> bool:
        await asyncio.Event().wait()
        return True

    await it.engine.run("fast", [[config()], [fast(forever, timeout_s=0.05)]])
    assert it.told() == [("fast", "timeout", [OK[0], ("fast_hooks", "timeout", 1)])]
    assert it.handle.state().phase_failures == 1


@pytest.mark.anyio
async def test_hooks_that_run_in_parallel() -> None:
    it = Observed()
    hooks = [("ruff", "passed"), ("bandit", "failed"), ("codespell", "passed")]
    steps = [[config()], [fast(hooks=hooks), comprehensive(hooks=[("mypy", "passed")])]]
    await it.engine.run("standard", steps)
    assert it.told() == [
        (
            "standard",
            "success",
            [OK[0], ("fast_hooks", "success", 1), ("comprehensive", "success", 1)],
        )
    ]
    fast_hooks, slow_hooks = it.runs[0].children[1:]
    assert sorted((hook.name, str(hook.result)) for hook in fast_hooks.children) == [
        ("bandit", "failure"),
        ("codespell", "success"),
        ("ruff", "success"),
    ]
    assert [(hook.name, str(hook.result)) for hook in slow_hooks.children] == [("mypy", "success")]
    assert it.handle.state().phase_failures == 0


@pytest.mark.anyio
async def test_two_concurrent_runs() -> None:
    it = Observed()
    await asyncio.gather(
        asyncio.create_task(
            it.engine.run("standard", standard(fast(failing(False, True), tries=2)))
        ),
        asyncio.create_task(
            it.engine.run("standard", standard(last=comprehensive(action=failing(False))))
        ),
    )
    told = it.told()
    assert sorted(told, key=lambda run: run[1]) == [
        ("standard", "failure", [*OK[:3], ("comprehensive", "failure", 1)]),
        ("standard", "success", [OK[0], ("fast_hooks", "success", 2), *OK[2:]]),
    ]
    assert len({run.trace_id for run in it.runs}) == 2
    state = it.handle.state()
    assert (state.phase_failures, state.run_failures, state.retries) == (1, 1, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("later", [1, 3])
async def test_runs_after_a_cancelled_run(later: int) -> None:
    it = Observed()
    begun = asyncio.Event()

    async def forever() -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    run = asyncio.create_task(it.engine.run("standard", standard(fast(forever))))
    await begun.wait()
    await moment()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    for _ in range(later):
        await it.engine.run("standard", standard())
    told = it.told()
    cancelled = [each for each in told if each[1] == "cancellation"]
    assert [row for row in told if row[1] != "cancellation"] == [
        ("standard", "success", OK)
    ] * later
    assert len(cancelled) == 1
    assert [(name, result) for name, result, _ in cancelled[0][2] if name == "fast_hooks"] == [
        ("fast_hooks", "cancellation")
    ]
    state = it.handle.state()
    assert (state.phase_failures, state.run_failures, state.abandoned) == (0, 0, 0)
