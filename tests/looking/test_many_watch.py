"""Five hundred clients look at one run: each is told everything or how much it missed, and the run does not notice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
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
]
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "spanbus.toml").write_text(WORKFLOW)
    one = Up(Cli(tmp_path), "--token", "the-token")
    yield one
    one.stop()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # websockets is a library of asyncio


def run_s(cli: Cli) -> float:
    began = time.monotonic()
    assert cli("run", "watched", "-q").code == 1
    return time.monotonic() - began


@pytest.mark.anyio
async def test_five_hundred_clients_see_a_run_that_is_not_slowed(up: Up) -> None:
    alone_s = min(run_s(up.cli) for _ in range(2))
    url = f"{up.url.replace('http', 'ws')}/live?token={quote('the-token')}"
    seen: list[set[tuple[str, str]]] = []
    missed = 0
    ready = 0
    watched_s = 0.0

    async def watch(client: ClientConnection) -> None:
        nonlocal missed, ready
        found: set[tuple[str, str]] = set()
        ready += 1
        async for frame in client:
            document = json.loads(frame)
            if document["type"] == "missed":
                missed += document["count"]
            for message in document.get("messages", ()):
                if message["type"] == "closed":
                    found.add((message["level"], message["name"]))
                    if message["level"] == "run":
                        seen.append(found)
                        return

    async with anyio.create_task_group() as group, anyio.create_task_group() as opening:
        clients: list[ClientConnection] = []

        async def one() -> None:
            clients.append(await connect(url, max_queue=2, open_timeout=30))

        for _ in range(WATCHING + DEAF):
            opening.start_soon(one)
            await anyio.sleep(0)
        with anyio.fail_after(60):
            while len(clients) < WATCHING + DEAF:
                await anyio.sleep(0.02)
        for client in clients[:WATCHING]:  # the others never read
            group.start_soon(watch, client)
        with anyio.fail_after(30):
            while ready < WATCHING:
                await anyio.sleep(0.02)
        watched_s = await anyio.to_thread.run_sync(run_s, up.cli)
        with anyio.fail_after(60):
            while len(seen) < WATCHING:
                await anyio.sleep(0.02)
        for client in clients:
            client.transport.abort()
    assert missed == 0
    assert all({("phase", "one"), ("phase", "two"), ("phase", "three"), ("phase", "four")} <= each for each in seen)
    assert watched_s < 3 * alone_s + 3
