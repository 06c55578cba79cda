"""spanbus flush: deliver what waits in the spool."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from spanbus.cli.options import File

if TYPE_CHECKING:
    from spanbus.delivery.spool_status import DirectoryStatus
    from spanbus.settings import Settings

_CLOSING_S: Final = 5.0
_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


def _waits(found: DirectoryStatus, settings: Settings, since_ns: int) -> bool:
    """Whether something that was there then can be delivered with these settings, by us or by whoever holds it."""
    old = found.oldest_at_ns is not None and found.oldest_at_ns <= since_ns
    return (old and any(count and (settings.endpoint_configured or destination != "remote") for (destination, _), count in found.waiting.items())) or (
        found.left_open > 0 and settings.endpoint_configured
    )


def _in_its_own_words(line: str) -> None:
    """What delivery tells the person who started a program: to run this command."""
    del line


def command(
    wait: Annotated[float, typer.Option("--wait", "-w", metavar="S", min=0, help="How long to try, in seconds.")] = 10.0,
    file: File = None,
) -> None:
    """Deliver now what earlier programs left in the spool.

    Exit code: 0 when the spool is empty, 1 when something still waits.
    """
    from spanbus.cli import console
    from spanbus.counted import counted
    from spanbus.delivery.ledger import Ledger
    from spanbus.delivery.spool_files import FOLDER
    from spanbus.delivery.spool_status import status
    from spanbus.runtime import Runtime
    from spanbus.settings import load_settings

    settings = load_settings(file)
    deadline, since_ns = time.monotonic() + wait, time.time_ns()
    before, untold = status(settings.state_dir), Ledger(settings.state_dir).read().untold
    if not before.files and not untold:
        console.note(f"spanbus: nothing waits in {settings.state_dir / FOLDER}")
        return
    runtime = Runtime(settings, lifetime="run", command_line=True, tell=_in_its_own_words).open()
    delivered = False
    try:
        pause_s = _SHORTEST_PAUSE_S
        while True:  # others may hold what waits, and let go of it undelivered
            delivered = runtime.flush(max(0.1, deadline - time.monotonic()))
            if time.monotonic() >= deadline or (delivered and not _waits(status(settings.state_dir), settings, since_ns)):
                break
            time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    finally:  # what this command counts of itself goes out when it closes, and to deliver is what it is for: no hurry as after a run
        runtime.close(max(settings.exit_timeout_s, min(wait, _CLOSING_S)) if delivered else None)
    found, after = runtime.statistics(), status(settings.state_dir)
    outage = found.outage if found is not None else None
    if not after.records and not after.left_open:
        rejected = sum(found.rejected.values()) if found is not None else 0
        console.note(f"spanbus: nothing waits any more; {counted(rejected, 'record was', 'records were')} rejected, see `spanbus status`" if rejected else "spanbus: everything is delivered")
        return
    reason = f" ({outage})" if outage else ""
    if not outage and any(destination == "remote" for destination, _ in after.waiting) and not settings.endpoint_configured:
        reason = " (it waits for a collector, and OTEL_EXPORTER_OTLP_ENDPOINT is not set here)"
    elif not outage and after.alive:
        reason = f" ({counted(after.alive, 'running program still delivers its own', 'running programs still deliver theirs')})"
    what = counted(after.records, "record still waits", "records still wait") if after.records else counted(
        after.left_open, "phase that a dead program left open is still not ended", "phases that dead programs left open are still not ended"
    )
    console.note(f"spanbus: {what} in {settings.state_dir / FOLDER}{reason}")
    raise typer.Exit(1)
