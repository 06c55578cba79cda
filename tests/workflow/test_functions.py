"""Functions as actions of phases: every kind runs to its end, or is refused when the phase is created."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Coroutine, Generator
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Phase, Workflow, command
from spanbus._workflow.engine import BasicWorkflowEngine, PhaseResult
from spanbus.errors import DefinitionError

pytestmark = pytest.mark.anyio

ran: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


async def result_of(action: object, **phase: object) -> PhaseResult:
    workflow = Workflow("w", (Phase("p", action, **phase),))  # type: ignore[arg-type]
    return (await BasicWorkflowEngine(WorkflowEventBus()).run(workflow)).phases[0]


def generator() -> Generator[int, None, str]:
    ran.append("first")
    yield 1
    ran.append("last")
    return "value"


async def asynchronous_generator() -> AsyncGenerator[int]:
    ran.append("first")
    yield 1
    await anyio.lowlevel.checkpoint()
    ran.append("last")


async def inner() -> str:
    ran.extend(("first", "last"))
    return "value"


async def coroutine_of_a_coroutine() -> Coroutine[object, object, str]:
    return inner()


class Callable:
    def __call__(self) -> Generator[int, None, str]:
        return generator()


class AsyncCallable:
    async def __call__(self) -> str:
        return await inner()


@pytest.mark.parametrize(
    ("action", "value"),
    [
        (generator, "value"),
        (partial(generator), "value"),
        (lambda: generator(), "value"),
        (Callable(), "value"),
        (asynchronous_generator, None),
        (lambda: asynchronous_generator(), None),
        (coroutine_of_a_coroutine, "value"),
        (lambda: coroutine_of_a_coroutine(), "value"),
        (AsyncCallable(), "value"),
        (partial(AsyncCallable()), "value"),
    ],
)
async def test_every_kind_of_function_runs_to_its_end(action: object, value: object) -> None:
    result = await result_of(action)
    assert (result.result, result.value, ran) == ("success", value, ["first", "last"])


async def test_a_generator_that_raises_or_yields_false_is_a_failure() -> None:
    def broken() -> Generator[None]:
        yield
        raise KeyError("k")

    async def broken_later() -> AsyncGenerator[None]:
        yield
        raise KeyError("k")

    def no() -> Generator[None, None, bool]:
        yield
        return False

    for action, error_type in (
        (broken, "KeyError"),
        (broken_later, "KeyError"),
        (no, "unsuccessful"),
    ):
        result = await result_of(action)
        assert (result.result, result.error_type) == ("failure", error_type)


@contextlib.contextmanager
def manager() -> Generator[None]:
    yield


@contextlib.asynccontextmanager
async def asynchronous_manager() -> AsyncGenerator[None]:
    yield


class Manager(contextlib.AbstractContextManager[None]):
    def __exit__(self, *error: object) -> None:
        pass


class Decorator(contextlib.ContextDecorator):
    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class Duck:
    """A context manager by duck typing."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *error: object) -> None:
        pass


@pytest.mark.parametrize(
    "action",
    [
        manager,
        asynchronous_manager,
        manager(),
        asynchronous_manager(),
        partial(manager),
        contextlib.ExitStack(),
        contextlib.ExitStack,
        contextlib.AsyncExitStack,
        contextlib.nullcontext,
        partial(contextlib.suppress, ValueError),
        Manager,
        Decorator,
        Duck,
    ],
)
async def test_a_context_manager_is_refused_as_an_action(action: object) -> None:
    with pytest.raises(DefinitionError, match="p"):
        Phase("p", action)  # type: ignore[arg-type]


async def test_a_function_that_returns_a_context_manager_is_a_failure() -> None:
    result = await result_of(lambda: manager())
    assert (result.result, result.error_type) == ("failure", "TypeError")
    assert "with" in (result.error or "")


async def test_after_an_exception_whose_str_raises_always_phases_run() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    def broken() -> None:
        raise Unprintable

    workflow = Workflow(
        "w",
        (
            Phase("broken", broken),
            Phase("always", generator, needs=("broken",), when="always"),
            Phase("rescue", generator, needs=("broken",), when="failure"),
        ),
    )
    result = await BasicWorkflowEngine(WorkflowEventBus()).run(workflow)
    assert result.result == "failure"
    assert [phase.result for phase in result.phases] == ["failure", "success", "success"]
    assert "Unprintable" in (result.phases[0].error_type or "")


async def test_a_phase_with_nothing_to_do_is_refused() -> None:
    for action in (
        "command",
        "fast_hooks",
        "comprehensive_hooks",
        "code_cleaning",
        "test_workflow",
    ):
        with pytest.raises(DefinitionError, match="'x' has nothing to do"):
            Phase("x", action)
    assert Phase("x", hooks=(command("true"),)).hooks


async def test_an_unknown_action_lists_the_known_ones() -> None:
    with pytest.raises(DefinitionError, match=r"unknown action 'tst'.*fast_hooks, code_cleaning"):
        Phase("x", "tst")


async def test_timeout_and_timeout_s_are_the_same_setting() -> None:
    work = command("true")
    assert Phase("x", command=work, timeout="10m").timeout_s == 600
    assert Phase("x", command=work, timeout=2).timeout_s == 2
    assert Phase("x", command=work, timeout_s=2.5).timeout_s == 2.5
    with pytest.raises(DefinitionError, match="give one"):
        Phase("x", command=work, timeout=2, timeout_s=2)
    for key in ("timeout", "timeout_s"):
        table = {"phases": [{"name": "x", "hooks": [{"run": "true", key: "1m"}], key: "2m"}]}
        [phase] = Workflow.from_mapping("w", table).phases
        assert (phase.timeout_s, phase.hooks[0].timeout_s) == (120, 60)


async def test_a_phase_for_failures_considers_all_upstream_phases() -> None:
    def fails() -> bool:
        return False

    def fine() -> None:
        pass

    workflow = Workflow(
        "w",
        (
            Phase("a", fails),
            Phase("b", fine, needs=("a",)),
            Phase("c", fine, needs=("b",), when="always"),
            Phase("rescue", fine, needs=("c",), when="failure"),
            Phase("other", fine),
            Phase("idle", fine, needs=("other",), when="failure"),
        ),
    )
    result = await BasicWorkflowEngine(WorkflowEventBus()).run(workflow)
    assert {phase.name: phase.result for phase in result.phases} == {
        "a": "failure",
        "b": "skip",
        "c": "success",
        "rescue": "success",
        "other": "success",
        "idle": "skip",
    }
