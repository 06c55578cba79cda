"""spanbus up: serve the embedded backend."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from spanbus._cli.lazy import options, typer
from spanbus._cli.stored import import_leftovers

if TYPE_CHECKING:
    from spanbus._backend.address import Address
    from spanbus._backend.receiver import Sink
    from spanbus._settings import Settings

_LOOK_EVERY_S = 2.0


def command(
    port: Annotated[
        int | None,
        typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one; default 4318."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="Serve other machines too, on this address; the token is needed then.",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="SPANBUS_UP_TOKEN",
            help="The login token, better given as SPANBUS_UP_TOKEN: arguments can be read by others; default: a new one.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="An additional host name of this server; may be repeated.",
        ),
    ] = None,
    jaeger: Annotated[
        str | None,
        typer.Option(
            "--jaeger",
            metavar="URL",
            help="A Jaeger to link traces to, such as http://127.0.0.1:16686.",
        ),
    ] = None,
    forward: Annotated[
        str | None,
        typer.Option(
            "--forward",
            metavar="URL",
            help="Forward telemetry to this OTLP/HTTP address, through a spool; OTEL_EXPORTER_OTLP_HEADERS and the like apply.",
        ),
    ] = None,
    file: options.File = None,
) -> None:
    """Serve the embedded backend: OTLP/HTTP in, query API, /metrics, web page; prints its addresses, until Ctrl-C."""
    import anyio

    from spanbus._cli import console
    from spanbus.errors import BackendError

    try:
        from spanbus._backend.server import DEFAULT_PORT, ServeOptions, serve
    except ImportError as error:
        raise BackendError(
            f"the backend needs the extra 'backend' ({error.name} is missing): pip install 'spanbus[backend]'"
        ) from None
    from spanbus._runtime import STORE_NAME
    from spanbus._settings import load_settings
    from spanbus._store.store import Retention, Store

    settings = load_settings(file)

    def started(address: Address) -> None:
        console.line(f"page     {page_address(address)}")
        console.line(
            f"OTLP     {address.url}  (http/protobuf and JSON; set OTEL_EXPORTER_OTLP_ENDPOINT to it)"
        )
        console.line(f"metrics  {address.url}/metrics")
        console.line(f"queries  {address.url}/api  (in Jaeger's shape)")
        console.line(f"store    {settings.state_dir / STORE_NAME}")
        if forward:
            console.line(f"forward  {forward}")
        sys.stdout.flush()  # a reader of a file or pipe waits for these lines
        if read_only:
            console.note(
                "spanbus: the store cannot be written: what is in it is shown, what is sent here is refused"
            )
        console.note("spanbus: serving; Ctrl-C stops it")

    read_only = False
    options = ServeOptions(
        state_dir=settings.state_dir,
        host=listen or "127.0.0.1",
        port=DEFAULT_PORT if port is None else port,
        listen_anywhere=listen is not None,
        allow_hosts=tuple(allow_host or ()),
        token=token,
        token_everywhere=listen is not None,
        jaeger_url=jaeger,
    )
    retention = Retention.of_days(settings.store_days, settings.store_bytes)
    with (
        Store.open_to_read(settings.state_dir / STORE_NAME, retention) as store,
        store.kept(),
        _importing_leftovers(settings, needed=not store.read_only),
        _forwarding(forward, store, settings, options.port) as sink,
    ):
        read_only = store.read_only
        anyio.run(lambda: serve(store, options, started=started, sink=sink))


def page_address(address: Address) -> str:
    """Return the page's address; without the token in CI, where others can read the output."""
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        return f"{address.url}/?token={address.token}"
    return f"{address.url}/"


@contextmanager
def _forwarding(
    url: str | None, store: Sink, settings: Settings, port: int
) -> Generator[Sink | None]:
    if url is None:
        yield None
        return
    from urllib.parse import urlsplit

    from spanbus._backend.forward import Forwarder
    from spanbus._host import is_loopback
    from spanbus.errors import InputError

    forwarder = Forwarder(
        store, url, settings.state_dir, os.environ, quota_bytes=settings.spool_quota_bytes
    )
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") and parts.port == port != 0:
        raise InputError(f"--forward: {url} is this backend itself")
    with forwarder:
        yield forwarder


@contextmanager
def _importing_leftovers(settings: Settings, *, needed: bool) -> Generator[None]:
    """Store the records of killed programs within seconds while the backend serves."""
    if not needed:
        yield
        return
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(_LOOK_EVERY_S):
            try:
                import_leftovers(settings)
            except Exception as error:  # must not end the backend
                logging.getLogger("spanbus").debug("taking over", exc_info=error)

    thread = threading.Thread(target=work, name="spanbus-take-over", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)
