"""spanbus mcp: serve runs to assistants over the Model Context Protocol."""

from __future__ import annotations

from spanbus._cli.lazy import options


def command(file: options.File = None) -> None:
    """Serve the Model Context Protocol on standard input and output: list, read, compare and wait for runs."""
    import anyio

    from spanbus._cli.stored import import_leftovers
    from spanbus._loggers import load
    from spanbus._settings import load_settings
    from spanbus.errors import BackendError

    load()
    try:
        from spanbus.integrations.mcp import build
        from spanbus.integrations.mcp_source import StoredRuns, live_feed
    except ImportError as error:
        raise BackendError(
            f"the MCP server needs the extra 'mcp' ({error.name} is missing): pip install 'spanbus[mcp]'"
        ) from None

    settings = load_settings(file)
    server = build(
        StoredRuns(settings.state_dir, lambda: import_leftovers(settings)),
        lambda: live_feed(settings.state_dir),
    )
    anyio.run(server.run_stdio_async)
