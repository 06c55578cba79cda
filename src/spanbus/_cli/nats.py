"""spanbus nats: the stream that carries events, made, compared and shown."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from spanbus._cli import console
from spanbus._cli.options import File, Json

if TYPE_CHECKING:
    from spanbus._settings import Settings
    from spanbus.integrations._nats_status import GroupStatus, PartitionStatus

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Set up and check the stream of NATS that carries events.",
)

Servers = Annotated[
    str | None,
    typer.Argument(metavar="[URL]", help="Servers, with commas; default: SPANBUS_NATS_URL."),
]
Stream = Annotated[
    str | None, typer.Option("--stream", metavar="NAME", help="Default: SPANBUS_NATS_STREAM.")
]


@app.command("setup")
def setup(
    servers: Servers = None,
    replicas: Annotated[
        int, typer.Option("--replicas", metavar="N", min=1, max=5, help="Copies of each event.")
    ] = 1,
    max_age: Annotated[
        str, typer.Option("--max-age", metavar="TIME", help="How long events are kept.")
    ] = "24h",
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", metavar="SIZE", help="How much of them is kept.")
    ] = "64GiB",
    stream: Stream = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; exit code 1 when it differs.")
    ] = False,
    file: File = None,
) -> None:
    """Create the stream, or update its configuration. May be run again.

    Exit code: 0, 1 when NATS does not do it or --check finds a difference, 2 for bad input.
    """
    from spanbus._settings import load_settings
    from spanbus._settings.values import InvalidValue, size
    from spanbus._workflow.definition import UnusableDefinition, duration_s
    from spanbus.errors import InputError
    from spanbus.integrations.nats_stream import Wanted, set_up

    settings = load_settings(file)
    try:
        wanted = Wanted(
            stream or settings.nats_stream, replicas, duration_s(max_age), size(max_bytes)
        )
    except UnusableDefinition as error:
        raise InputError(f"--max-age {error.message}") from None
    except InvalidValue as error:
        raise InputError(f"--max-bytes {error}") from None
    with _one_line():
        found = set_up(
            _servers(servers, settings),
            wanted,
            credentials=settings.nats_creds or None,
            check=check,
        )
    console.line(f"stream {wanted.stream} is {found.done}")
    for each in found.differences:
        console.line(f"  {each}")
    if check and found.done != "as wanted":
        raise SystemExit(1)


@app.command("status")
def status(
    servers: Servers = None,
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="The group of observers to show.")
    ] = "main",
    stream: Stream = None,
    as_json: Json = False,
    file: File = None,
) -> None:
    """Show the stream, its observers and its publishers.

    How far the observers are, the publishers that live, and clocks that are wrong.

    Exit code: 0, 1 when NATS or the stream is not there, or not as `setup` makes it, or an observer is gone that
    has not left, 2 for bad input.
    """
    from spanbus._pluralize import pluralize
    from spanbus._settings import load_settings
    from spanbus.integrations import _nats_status, nats_stream

    settings = load_settings(file)
    where, named = _servers(servers, settings), stream or settings.nats_stream
    with _one_line():
        found = nats_stream.status(where, named, credentials=settings.nats_creds or None)
        observed = _nats_status.status(
            where, named, group=group, credentials=settings.nats_creds or None
        )
    if as_json:
        console.document(
            {
                **found._asdict(),
                "differences": list(found.differences),
                "group": group,
                "partitions": [each._asdict() for each in observed.partitions],
                "publishers": [each._asdict() for each in observed.publishers],
                "clocks": [each._asdict() for each in observed.clocks],
            }
        )
    else:
        leader = f", leader {found.leader}" if found.replicas > 1 else ""
        console.line(f"servers   {found.servers} (nats-server {found.version})")
        console.line(
            f"stream    {found.stream}, {pluralize(found.replicas, 'replica', 'replicas')}{leader}"
        )
        console.line(
            f"messages  {found.messages}, {found.bytes} bytes, {found.first_sequence} to {found.last_sequence}"
        )
        for line in _observed(observed):
            console.line(line)
        for each in found.differences:
            console.line(f"differs   {each}")
    if found.differences or any(each.gone for each in observed.partitions):
        raise SystemExit(1)


def _observed(found: GroupStatus) -> Iterator[str]:
    """A group for people: partitions of one holder in one line."""
    from spanbus._pluralize import pluralize
    from spanbus._runs.format import duration as seconds
    from spanbus.integrations._nats_partitions import shown

    held = sum(each.held for each in found.partitions)
    yield f"group     {found.group}: {held} of 64 partitions are observed"
    together: dict[str, list[PartitionStatus]] = {}
    for each in found.partitions:
        who = each.holder or (
            "gone without having left"
            if each.gone
            else "left"
            if each.checkpoint_age_s is not None
            else "never observed"
        )
        together.setdefault(who, []).append(each)
    for who, parts in together.items():
        behind, lag_s = max(each.behind for each in parts), max(each.lag_s for each in parts)
        ages = [each.checkpoint_age_s for each in parts if each.checkpoint_age_s is not None]
        runs = pluralize(sum(each.open_runs for each in parts), "open run", "open runs")
        told = f"checkpoint {seconds(max(ages))} old, {runs}, " if ages else ""
        late = f", {seconds(lag_s)}" if lag_s else ""
        yield (
            f"  {shown([each.partition for each in parts])}: {who}: {told}"
            f"{pluralize(behind, 'message', 'messages')} behind{late}"
        )
    alive = sum(each.alive for each in found.publishers)
    yield f"alive     {pluralize(alive, 'publisher', 'publishers')} with open runs"
    for each in found.publishers:
        if not each.alive:
            yield f"  {each.where or each.name} is gone since {seconds(each.since_s)}"
    for clock in found.clocks:
        ahead = "ahead" if clock.offset_s > 0 else "behind"
        yield f"clock     {clock.publisher} is {seconds(abs(clock.offset_s))} {ahead}"


@contextmanager
def _one_line() -> Generator[None]:
    """Print a BackendError as one line and exit with 1."""
    from spanbus.errors import BackendError

    try:
        yield
    except BackendError as error:
        console.error(str(error))
        raise SystemExit(1) from None


def _servers(given: str | None, settings: Settings) -> str:
    from spanbus.errors import InputError

    found = given or settings.nats_url
    if not found:
        raise InputError("which NATS? Give its URL, or set SPANBUS_NATS_URL")
    return found
