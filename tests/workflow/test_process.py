"""Child processes: what they write is told and kept, however they write it and however they end."""

from __future__ import annotations

import os
import sys

import anyio
import pytest

from spanbus.workflow.bus import WorkflowEventBus
from spanbus.workflow.definition import Command, Phase, Workflow
from spanbus.workflow.engine import BasicWorkflowEngine
from spanbus.workflow.events import Event, WorkflowEvent
from spanbus.workflow.process import LONGEST_LINE_BYTES, run_process

pytestmark = pytest.mark.anyio


def python(program: str, *, name: str | None = None, timeout_s: float | None = None) -> Command:
    return Command((sys.executable, "-c", program), name=name, timeout_s=timeout_s)


async def test_a_line_that_does_not_end_is_told_in_pieces_of_bounded_size() -> None:
    lengths: list[int] = []
    size = 8_000_000
    result = await run_process(python(f"print('x' * {size}, end='')"), env=os.environ, on_line=lambda line: lengths.append(len(line)))
    assert result.success
    assert sum(lengths) == size
    assert max(lengths) <= LONGEST_LINE_BYTES + 65_536 * 16
    assert len(lengths) > 4


async def test_the_last_words_without_a_line_end_are_told_though_a_grandchild_holds_the_pipe() -> None:
    lines: list[str] = []
    program = "import os, sys, time\nif os.fork():\n  os.write(1, b'one\\r\\ntwo'); os._exit(0)\ntime.sleep(30)"
    with anyio.fail_after(20):
        result = await run_process(python(program), env=os.environ, on_line=lines.append)
    assert result.success
    assert lines == ["one", "two"]
    assert result.tail.split() == ["one", "two"]


async def test_an_argument_that_no_program_can_be_given_is_a_result() -> None:
    result = await run_process(Command(("echo", "a\0b")), env=os.environ)
    assert not result.success
    assert result.error is not None and result.error.startswith("cannot run echo, ")


@pytest.mark.parametrize("whose", ["phase", "hook"])
async def test_the_end_of_the_output_is_kept_when_time_was_up(whose: str) -> None:
    bus = WorkflowEventBus()
    events: list[Event] = []
    bus.subscribe(None, events.append)
    hook = python("import time; print('collected 7 items', flush=True); time.sleep(60)", name="slow", timeout_s=3 if whose == "hook" else None)
    workflow = Workflow("w", (Phase("tests", "fast_hooks", hooks=(hook,), timeout_s=3 if whose == "phase" else None),))
    result = await BasicWorkflowEngine(bus).run(workflow)
    tails = {event.event_type: event.payload.get("output_tail") for event in events}
    assert result.result == "timeout"
    assert tails[WorkflowEvent.HOOK_EXECUTION_FAILED] == tails[WorkflowEvent.PHASE_FAILED] == "collected 7 items"
