"""Stop 2: a workflow run by spanbus's own engine, and the ways in which a phase can end.

A phase is a function or a command, with the phases that it needs. The engine runs independent phases concurrently. Success,
failure, timeout and skip are distinct results.
"""

from __future__ import annotations

import anyio
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from spans import attributes, by_name

import spanbus
from spanbus import Phase, Workflow
from spanbus.testing import Receiver


async def good(context: spanbus.PhaseContext) -> bool:
    return True


async def unhappy(context: spanbus.PhaseContext) -> bool:
    return False


async def raises(context: spanbus.PhaseContext) -> None:
    raise ValueError("2 of 40 failed")


async def sleeps(context: spanbus.PhaseContext) -> None:
    await anyio.sleep(60)


async def test_each_phase_has_its_own_result_and_error_type(
    runtime: spanbus.Runtime, collector: Receiver
) -> None:
    workflow = Workflow(
        "outcomes",
        (
            Phase("good", action=good),
            Phase("unhappy", action=unhappy),
            Phase("raises", action=raises),
            Phase("sleeps", action=sleeps, timeout_s=0.05),
            Phase("after", action=good, needs=("raises",)),
            Phase("report", action=good, needs=("raises",), when="always"),
        ),
    )
    result = await runtime.run(workflow)
    ended = {phase.name: phase.result for phase in result.phases}
    assert result.result == "failure"
    assert ended == {
        "good": "success",
        "unhappy": "failure",
        "raises": "failure",
        "sleeps": "timeout",
        "after": "skip",
        "report": "success",
    }

    assert runtime.flush()
    error_types = {
        name: attributes(by_name(collector, name)).get("error.type")
        for name in ("good", "unhappy", "raises", "sleeps")
    }
    assert error_types == {
        "good": None,
        "unhappy": "unsuccessful",
        "raises": "ValueError",
        "sleeps": "timeout",
    }
    assert by_name(collector, "raises").status.code == Status.STATUS_CODE_ERROR
    assert by_name(collector, "after").status.code == Status.STATUS_CODE_UNSET
