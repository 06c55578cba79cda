"""Five hundred clients watch one run: each gets all messages or the number of missed ones, and the run is not slowed."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.lowlevel
import pytest
from command_line import Cli
from embedded import Up
from websockets.asyncio.client import ClientConnection, connect

WATCHING, DEAF = 420, 80

WORKFLOW = """
[workflows.watched]
phases = [
  { name = "one", run = "true" }, { name = "two", run = "sh -c 'exit 3'", needs = ["one"], retries = 2, retry_backoff = 0.01 },
  { name = "three", run = "true", needs = ["one"] }, { name = "four", run = "true", needs = ["three"] },
  { name = "last", run = "sh -c 'until test -e seen; do sleep 1; done'", needs = ["four"], timeout = 200 },
]
"""
WATCHED = {"one", "two", "three", "four"}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    one = Up(Cli(tmp_path), "--token", "the-token")
    yield one
    one.stop()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # websockets is a library of asyncio


def cpu_s_of_a_run(cli: Cli) -> float:
    """Return the CPU time of the child processes that ended meanwhile: the run, whose commands do almost nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert replace(cli, alone=True)("run", "watched", "-q").code == 1  # a child of ours
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
@pytest.mark.anyio
async def test_five_hundred_clients_do_not_slow_a_run(up: Up) -> None:
    everybody_has_seen_it = up.cli.folder / "seen"
    everybody_has_seen_it.touch()
    alone_s = min(cpu_s_of_a_run(up.cli) for _ in range(2))
    everybody_has_seen_it.unlink()
    url = f"{up.url.replace('http', 'ws')}/live?token={quote('the-token')}"
    seen = 0
    missed = 0
    ready = 0
    watched_s = 0.0

    async def watch(client: ClientConnection) -> None:
        nonlocal missed, ready, seen
        found: set[str] = set()
        ready += 1
        async for frame in client:
            document = json.loads(frame)
            if document["type"] == "missed":
                missed += document["count"]
            for message in document.get("messages", ()):
                if message["type"] == "closed" and message["level"] == "phase":
                    found.add(message["name"])
            if found >= WATCHED:
                seen += 1
                return

    clients: list[ClientConnection] = []
    async with anyio.create_task_group() as group, anyio.create_task_group() as opening:

        async def one() -> None:
            clients.append(await connect(url, max_queue=2, open_timeout=120))

        for _ in range(WATCHING + DEAF):
            opening.start_soon(one)
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(120):
            while len(clients) < WATCHING + DEAF:
                await anyio.sleep(0.02)
        for client in clients[:WATCHING]:  # the others never read
            group.start_soon(watch, client)
        with anyio.fail_after(120):
            while ready < WATCHING:
                await anyio.sleep(0.02)

        async def run() -> None:
            nonlocal watched_s
            watched_s = await anyio.to_thread.run_sync(cpu_s_of_a_run, up.cli)

        group.start_soon(run)
        try:
            with anyio.fail_after(120):
                while seen < WATCHING:
                    await anyio.sleep(0.02)
        finally:
            everybody_has_seen_it.touch()
    for client in clients:
        client.transport.abort()
    assert missed == 0
    assert 0 < watched_s < 2 * alone_s
