"""Run a workflow of Python functions; each phase is a span, and spans made inside nest beneath it."""

from __future__ import annotations

import anyio

import spanbus
from spanbus import Phase, Workflow

tried: list[int] = []


async def fetch(context: object) -> bool:
    await anyio.sleep(0.02)
    return True


async def flaky(context: object) -> bool:
    tried.append(1)
    if len(tried) == 1:
        raise ConnectionError("refused")
    return True


def report(context: object) -> None:
    """A plain function runs in a thread."""


WORKFLOW = Workflow(
    "nightly",
    (
        Phase("fetch", action=fetch),
        Phase("convert", action=flaky, needs=("fetch",), retries=2, retry_backoff_s=0.01),
        Phase("report", action=report, needs=("convert",), when="always"),
    ),
)


async def main() -> None:
    async with spanbus.open_runtime() as runtime:
        result = await runtime.run(WORKFLOW)
    for phase in result.phases:
        print(f"{phase.name}: {phase.result}, {phase.attempts} attempts")


if __name__ == "__main__":
    anyio.run(main)
