"""Child processes: their output is passed on and its tail is kept, however they write and end."""

from __future__ import annotations

import os
import signal
import sys

import anyio
import pytest

from spanbus._workflow.bus import WorkflowEventBus
from spanbus._workflow.definition import Command, Phase, Workflow
from spanbus._workflow.engine import BasicWorkflowEngine, RunOptions
from spanbus._workflow.events import Event, WorkflowEvent
from spanbus._workflow.output import LONGEST_LINE_BYTES, TAIL_BYTES, Tail
from spanbus._workflow.process import Interruption, run_process, signal_all
from spanbus._workflow.stop import Stop

pytestmark = pytest.mark.anyio


def python(program: str, *, name: str | None = None, timeout_s: float | None = None) -> Command:
    return Command((sys.executable, "-c", program), name=name, timeout_s=timeout_s)


async def test_an_endless_line_is_passed_on_in_pieces_of_bounded_size() -> None:
    lengths: list[int] = []
    size = 8_000_000
    result = await run_process(
        python(f"print('x' * {size}, end='')"),
        env=os.environ,
        on_line=lambda line: lengths.append(len(line)),
    )
    assert result.success
    assert sum(lengths) == size
    assert max(lengths) <= LONGEST_LINE_BYTES + 65_536 * 16
    assert len(lengths) > 4


async def lines_of(program: str) -> list[str]:
    lines: list[str] = []
    result = await run_process(python(program), env=os.environ, on_line=lines.append)
    assert result.success
    return lines


async def test_multibyte_characters_are_not_split_at_buffer_edges() -> None:
    program = (
        "import sys, time\n"
        "for byte in ('x' + 'é€😀' * 3 + chr(10)).encode():\n"
        "    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush()\n"
        "sys.stdout.buffer.write(('€' * 100_000).encode())\n"
    )
    first, *rest = await lines_of(program)
    assert first == "x" + "é€😀" * 3
    assert "".join(rest) == "€" * 100_000


async def test_only_the_last_state_of_a_progress_bar_is_a_line() -> None:
    program = "import sys; sys.stdout.write('  5%\\r 50%\\r100%\\r\\nplain\\r\\n' + '9%\\r' * 50_000 + 'done')"
    assert await lines_of(program) == ["100%", "plain", "done"]


async def test_a_last_line_without_newline_is_passed_on_while_a_grandchild_holds_the_pipe() -> None:
    lines: list[str] = []
    program = "import os, sys, time\nif os.fork():\n  os.write(1, b'one\\r\\ntwo'); os._exit(0)\ntime.sleep(30)"
    with anyio.fail_after(20):
        result = await run_process(python(program), env=os.environ, on_line=lines.append)
    assert result.success
    assert lines == ["one", "two"]
    assert result.tail.split() == ["one", "two"]


async def test_an_argument_that_cannot_be_passed_to_a_program_is_a_failure() -> None:
    result = await run_process(Command(("echo", "a\0b")), env=os.environ)
    assert not result.success
    assert result.error is not None and result.error.startswith("cannot run echo, ")


@pytest.mark.parametrize("whose", ["phase", "hook"])
async def test_the_end_of_the_output_is_kept_after_a_timeout(whose: str) -> None:
    bus = WorkflowEventBus()
    events: list[Event] = []
    bus.subscribe(None, events.append)
    hook = python(
        "import time; print('collected 7 items', flush=True); time.sleep(60)",
        name="slow",
        timeout_s=3 if whose == "hook" else None,
    )
    workflow = Workflow(
        "w",
        (Phase("tests", "fast_hooks", hooks=(hook,), timeout_s=3 if whose == "phase" else None),),
    )
    result = await BasicWorkflowEngine(bus).run(workflow)
    tails = {event.event_type: event.payload.get("output_tail") for event in events}
    assert result.result == "timeout"
    assert (
        tails[WorkflowEvent.HOOK_EXECUTION_FAILED]
        == tails[WorkflowEvent.PHASE_FAILED]
        == "collected 7 items"
    )


async def test_a_signal_during_the_start_of_a_tool_reaches_it() -> None:
    bus = WorkflowEventBus()
    events: list[Event] = []
    bus.subscribe(None, events.append)
    stop = Stop()

    def ask(event: Event) -> None:
        if event.event_type == WorkflowEvent.HOOK_EXECUTION_STARTED:
            stop.ask("SIGHUP")
            signal_all(signal.SIGHUP)

    bus.subscribe(None, ask)
    options = RunOptions(stop=stop, interruption=lambda: Interruption(signal.SIGHUP, False))
    workflow = Workflow("w", (Phase("slow", "command", command=Command(("sleep", "60"))),))
    with anyio.fail_after(30):
        result = await BasicWorkflowEngine(bus).run(workflow, options)
    assert result.result == "cancellation"
    [ended] = [event for event in events if event.event_type == WorkflowEvent.HOOK_EXECUTION_FAILED]
    assert (ended.payload["status"], ended.payload["exit_code"]) == ("cancelled", -signal.SIGHUP)


@pytest.mark.parametrize("piece", [1, 2, 7, 4_096, 1_000_000])
def test_a_progress_bar_does_not_fill_the_tail(piece: int) -> None:
    bar = b"".join(b"%3d%% |%s\r" % (done, b"#" * done) for done in range(101))
    output = b"the reason\n" + bar + b"\r\nlast\r\nopen  1%\ropen 99%\r"
    tail = Tail()
    for start in range(0, len(output), piece):
        tail.add(output[start : start + piece])
    assert tail.text() == "the reason\n100% |" + "#" * 100 + "\nlast\nopen 99%"


def test_a_tail_is_the_end_of_the_output_in_constant_memory() -> None:
    tail = Tail()
    for number in range(10_000):
        tail.add(b"line %d\n" % number)
    text = tail.text()
    assert text.endswith("line 9998\nline 9999")
    assert TAIL_BYTES - 1 <= len(text) <= TAIL_BYTES
    tail.add(b"x" * 10 * TAIL_BYTES)
    assert tail.text() == "x" * TAIL_BYTES
