"""spanbus observe: spans and metrics from the stream of events, for producers that make none."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from spanbus._cli import console
from spanbus._cli.lazy import options, typer
from spanbus._cli.stopping import stop_on_signals


def command(
    servers: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="Servers, with commas; default: SPANBUS_NATS_URL."),
    ] = None,
    group: Annotated[
        str, typer.Option("--group", metavar="NAME", help="Another group observes everything anew.")
    ] = "main",
    partitions: Annotated[
        str | None,
        typer.Option(
            "--partitions", metavar="LIST", help="Those of the 64 to observe, such as 0-15,40."
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            "--share",
            metavar="K/N",
            help="The same as a share of N, counted from 0: 0/4 to 3/4. K may be a name that ends in it, such as a pod's.",
        ),
    ] = None,
    take: Annotated[
        bool,
        typer.Option("--take", help="Do not wait for partitions that another observer holds."),
    ] = False,
    begin: Annotated[
        Literal["start", "now"],
        typer.Option("--from", help="Where to begin without a checkpoint."),
    ] = "start",
    durable: Annotated[
        Literal["delivered", "spool"] | None,
        typer.Option(
            "--durable",
            help="A checkpoint is written when the collector has it, or the spool. Default: SPANBUS_OBSERVE_DURABLE.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Read to the end of the stream, and leave.")
    ] = False,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="NAME", help="Default: SPANBUS_NATS_STREAM.")
    ] = None,
    file: options.File = None,
) -> None:
    """Make spans and metrics of the runs in the stream whose own processes make none.

    Runs until it is stopped (Ctrl-C, SIGTERM); started again, it continues where it was.
    Exit code: 0, 1 when NATS cannot be read or another observer took over, 2 for bad input.
    """
    from spanbus._pluralize import pluralize
    from spanbus._runtime import Runtime
    from spanbus._settings import load_settings
    from spanbus.errors import BackendError, InputError
    from spanbus.integrations import _nats_partitions
    from spanbus.integrations.nats_observer import Observer

    mine = _nats_partitions.given(partitions, share)
    settings = load_settings(file)._replace(delivery="spool")
    where = servers or settings.nats_url
    if not where:
        raise InputError("which NATS? Give its URL, or set SPANBUS_NATS_URL")
    lifetime = "run" if once else "service"
    with stop_on_signals() as stop:
        runtime = Runtime(settings, lifetime=lifetime, command_line=True, tell=console.note).open()
        try:
            with Observer(
                where,
                runtime,
                group=group,
                stream=stream or settings.nats_stream,
                credentials=settings.nats_creds or None,
                partitions=mine,
                take=take,
                durable=durable or settings.observe_durable,
                begin=begin,
                settle_s=settings.observe_settle_s,
                lost_after_s=settings.observe_lost_after_s,
                say=lambda line: console.note(f"spanbus: {line}"),
            ) as observer:
                if once:
                    observer.once(stop)
                else:
                    what = (
                        "" if len(mine) == 64 else f" partitions {_nats_partitions.shown(mine)} of"
                    )
                    console.note(
                        f"spanbus: observing{what} {observer.shown} until told to stop ({os.getpid()})"
                    )
                    observer.follow(stop)
                found = observer.state()
            fed = pluralize(found.counts.fed, "event", "events")
            open_ = pluralize(found.open_runs, "run is", "runs are")
            console.note(f"spanbus: {fed} up to message {found.sequence}; {open_} open")
        except BackendError as error:
            console.error(str(error))
            raise SystemExit(1) from None
        finally:
            runtime.close()
