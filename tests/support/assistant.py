"""A Model Context Protocol client of a real `spanbus mcp`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
from command_line import Cli

if TYPE_CHECKING:
    from mcp import ClientSession


@asynccontextmanager
async def client(cli: Cli) -> AsyncGenerator[ClientSession, None]:
    from mcp import ClientSession, StdioServerParameters  # imported here: it takes a second
    from mcp.client.stdio import stdio_client

    command, *arguments = cli.argv("mcp")
    parameters = StdioServerParameters(
        command=command, args=arguments, env=cli.environment(), cwd=str(cli.folder)
    )
    async with (
        stdio_client(parameters) as (reader, writer),
        ClientSession(reader, writer) as session,
    ):
        await session.initialize()
        yield session


async def call(session: ClientSession, tool: str, **arguments: object) -> dict[str, object]:
    result = await session.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


def live(health: str) -> dict[str, int]:
    """Counters of the live stream, from the health endpoint of the backend."""
    with urllib.request.urlopen(health, timeout=10) as answer:
        return dict(json.load(answer)["live"])


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not await anyio.to_thread.run_sync(holds):
            await anyio.sleep(0.05)
