"""spanbus flush: deliver what waits in the spool."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Final

from spanbus._cli.lazy import options, typer

if TYPE_CHECKING:
    from spanbus._delivery.spool_status import DirectoryStatus
    from spanbus._settings import Settings

_CLOSING_S: Final = 5.0
_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_FOLLOW_PAUSE_S: Final = 0.5
_FOLLOW_LONGEST_PAUSE_S: Final = 30.0
_FOLLOW_FLUSH_S: Final = 5.0


def _waits(found: DirectoryStatus, settings: Settings, since_ns: int) -> bool:
    """Whether records from before ``since_ns`` remain that can be delivered with these settings, by any process."""
    old = found.oldest_at_ns is not None and found.oldest_at_ns <= since_ns
    return (
        old
        and any(
            count and (settings.endpoint_configured or destination != "remote")
            for (destination, _), count in found.waiting.items()
        )
    ) or (found.left_open > 0 and settings.endpoint_configured)


def _ignore_advice(line: str) -> None:
    del line  # delivery advises to run this command


def command(
    wait: Annotated[
        float, typer.Option("--wait", "-w", metavar="S", min=0, help="How long to try, in seconds.")
    ] = 10.0,
    refused: Annotated[
        bool, typer.Option("--refused", help="Send refused requests again.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Continue until stopped (Ctrl-C, SIGTERM)."),
    ] = False,
    file: options.File = None,
) -> None:
    """Deliver the records that earlier programs left in the spool.

    Exit code: 0 when the spool is empty, 1 when something still waits.
    """
    from spanbus._settings import load_settings

    settings = load_settings(file)._replace(delivery="spool")
    complete = _send_refused(settings, wait) if refused else True
    if not refused and not follow:
        complete = _send_events(settings, wait) and complete
    if follow:
        complete = _follow(settings) and complete
    elif not refused:
        complete = _flush(settings, wait) and complete
    if not complete:
        raise SystemExit(1)


def _send_refused(settings: Settings, wait: float) -> bool:
    """Send refused requests again. Returns whether none is left."""
    from spanbus._cli import console
    from spanbus._delivery.dead_letters import REFUSED
    from spanbus._delivery.resend import resend, set_aside
    from spanbus._pluralize import pluralize

    folder = settings.state_dir / REFUSED
    if not set_aside(settings.state_dir):
        console.note(f"spanbus: nothing that was refused lies in {folder}")
        return True
    if not settings.endpoint_configured:
        console.note(
            f"spanbus: what was refused stays in {folder}: OTEL_EXPORTER_OTLP_ENDPOINT is not set here"
        )
        return False
    found = resend(settings.state_dir, os.environ, wait)
    parts: list[str] = []
    if found.delivered:
        rejected = f", {pluralize(found.rejected, 'record', 'records')} of them rejected"
        parts.append(
            f"{pluralize(found.delivered, 'request that was refused is', 'requests that were refused are')} delivered"
            + (rejected if found.rejected else "")
        )
    if found.left:
        why = f" ({found.reason})" if found.reason else ""
        parts.append(f"{pluralize(found.left, 'request stays', 'requests stay')} in {folder}{why}")
    console.note(f"spanbus: {'; '.join(parts)}")
    return not found.left


def _send_events(settings: Settings, wait: float) -> bool:
    """Send the events that wait for NATS; True when none is left."""
    from importlib import import_module

    from spanbus._cli import console
    from spanbus._delivery.spool_status import EVENTS_FOLDER, status
    from spanbus._pluralize import pluralize

    folder = settings.state_dir / EVENTS_FOLDER
    before = status(folder)
    if not before.records and not before.left_open:
        return True
    reason = "SPANBUS_NATS_URL is not set here"
    if settings.nats_url:
        outbox = import_module("spanbus.integrations.nats").outbox_of(settings)
        outbox.flush(wait)
        reason = outbox.state().outage or "NATS takes longer"
        outbox.close()
    left = status(folder).records
    if left:
        waits = pluralize(left, "event waits", "events wait")
        console.note(f"spanbus: {waits} for NATS in {folder} ({reason})")
    return not left


def _follow(settings: Settings) -> bool:
    """Adopt and send the records of other processes until stopped. Returns whether none is left."""
    from importlib import import_module

    from spanbus._cli import console
    from spanbus._cli.stopping import stop_on_signals
    from spanbus._delivery.spool_files import FOLDER
    from spanbus._delivery.spool_status import status
    from spanbus._runtime import Runtime

    with stop_on_signals() as stop:
        runtime = Runtime(settings, lifetime="service", command_line=True, tell=console.note).open()
        delivered = True
        outbox = None
        if settings.nats_url:
            outbox = import_module("spanbus.integrations.nats").outbox_of(settings)
        try:
            console.note(
                f"spanbus: sending what lies in {settings.state_dir / FOLDER} until told to stop"
            )
            pause_s = _FOLLOW_PAUSE_S
            while not stop.wait(pause_s):
                delivered = runtime.wiring().deliver(_FOLLOW_FLUSH_S)
                if outbox is not None:
                    delivered = outbox.flush(_FOLLOW_FLUSH_S) and delivered
                pause_s = (
                    _FOLLOW_PAUSE_S if delivered else min(2 * pause_s, _FOLLOW_LONGEST_PAUSE_S)
                )
        finally:  # also sends the last metrics of this command
            if outbox is not None:
                outbox.close()
            runtime.close(max(settings.exit_timeout_s, _CLOSING_S) if delivered else None)
    return not status(settings.state_dir).records


def _flush(settings: Settings, wait: float) -> bool:
    """Deliver waiting records within this time. Returns whether none is left."""
    from spanbus._cli import console
    from spanbus._delivery.ledger import Ledger
    from spanbus._delivery.spool_files import FOLDER
    from spanbus._delivery.spool_status import status
    from spanbus._pluralize import pluralize
    from spanbus._runtime import Runtime

    deadline, since_ns = time.monotonic() + wait, time.time_ns()
    before, unexported = status(settings.state_dir), Ledger(settings.state_dir).read().unexported
    if not before.files and not unexported:
        console.note(f"spanbus: nothing waits in {settings.state_dir / FOLDER}")
        return True
    runtime = Runtime(settings, lifetime="run", command_line=True, tell=_ignore_advice).open()
    delivered = False
    try:
        pause_s = _SHORTEST_PAUSE_S
        while True:  # other processes may hold records, and release them undelivered
            delivered = runtime.flush(max(0.1, deadline - time.monotonic()))
            if time.monotonic() >= deadline or (
                delivered and not _waits(status(settings.state_dir), settings, since_ns)
            ):
                break
            time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    finally:  # closing sends this command's own metrics; there is more time for it than after a run
        runtime.close(max(settings.exit_timeout_s, min(wait, _CLOSING_S)) if delivered else None)
    found, after = runtime.statistics(), status(settings.state_dir)
    outage = found.outage if found is not None else None
    if not after.records and not after.left_open:
        rejected = sum(found.rejected.values()) if found is not None else 0
        console.note(
            f"spanbus: nothing waits any more; {pluralize(rejected, 'record was', 'records were')} rejected, see `spanbus status`"
            if rejected
            else "spanbus: everything is delivered"
        )
        return True
    reason = f" ({outage})" if outage else ""
    if (
        not outage
        and any(destination == "remote" for destination, _ in after.waiting)
        and not settings.endpoint_configured
    ):
        reason = " (it waits for a collector, and OTEL_EXPORTER_OTLP_ENDPOINT is not set here)"
    elif not outage and after.alive:
        reason = f" ({pluralize(after.alive, 'running program still delivers its own', 'running programs still deliver theirs')})"
    what = (
        pluralize(after.records, "record still waits", "records still wait")
        if after.records
        else pluralize(
            after.left_open,
            "phase that a dead program left open is still not ended",
            "phases that dead programs left open are still not ended",
        )
    )
    console.note(f"spanbus: {what} in {settings.state_dir / FOLDER}{reason}")
    return False
