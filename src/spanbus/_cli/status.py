"""spanbus status: waiting records in the spool and counts of delivery."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spanbus._cli.lazy import options
from spanbus.errors import StoreError

if TYPE_CHECKING:
    from spanbus._settings import Settings


def command(file: options.File = None, as_json: options.Json = False) -> None:
    """Show the spool and delivery: what waits, how old it is, what was delivered, rejected or dropped and why.

    Exit code: 0, or 2 when the local store, which knows what was delivered, cannot be read.
    """
    from spanbus._cli import console
    from spanbus._settings import load_settings

    settings = load_settings(file)
    found = document(settings)
    if as_json:
        console.document(found)
    else:
        _print_status(found)
    if found["store_error"] is not None:
        console.error(found["store_error"])
        raise SystemExit(2)


def _print_status(found: dict[str, object]) -> None:
    from rich.table import Table

    from spanbus._cli import console
    from spanbus._cli.rich_console import rich_console
    from spanbus._pluralize import pluralize

    spool = cast("dict[str, int]", found["spool"])
    console.line(f"state directory  {found['state_dir']}")
    console.line(
        f"endpoint         {found['endpoint'] or 'none: the local store is the destination'}"
    )
    console.line(
        f"spool            {pluralize(spool['bytes'], 'byte', 'bytes')} in {pluralize(spool['files'], 'file', 'files')}, oldest {_age(spool['oldest_age_s'])}, "
        f"{pluralize(spool['programs'], 'program', 'programs')} running, {pluralize(spool['left_open'], 'phase', 'phases')} left open by dead ones, {pluralize(spool['set_aside'], 'file', 'files')} set aside"
    )
    for each in cast("list[dict[str, object]]", found["failing"]):
        console.line(
            f"not taking       {each['destination']}: {each['reason']} ({_age(each['age_s']).replace('old', 'ago')})"
        )
    table = Table(
        "what", "where or why", "signal", "records", box=None, pad_edge=False, header_style="bold"
    )
    rows = [
        (what, *row)
        for what in ("waiting", "delivered", "rejected", "dropped")
        for row in _rows(found[what])
    ]
    for row in rows:
        table.add_row(*row)
    refused = cast("dict[str, int]", found["refused"])
    if refused["files"]:
        table.add_row(
            "refused",
            str(refused["folder"]),
            "",
            pluralize(refused["files"], "request", "requests"),
        )
        console.line("`spanbus flush --refused` sends again what was refused")
    if table.row_count:
        rich_console().print(table)
    elif found["writable"] and found["store_error"] is None:
        console.line("nothing waits, nothing was lost")
    if not found["writable"]:
        console.line(
            "nothing can be kept there: what a program could not deliver was lost when it ended; set SPANBUS_STATE_DIR to a folder of yours"
        )


def document(settings: Settings) -> dict[str, object]:
    """Return the document of ``--json``. Delivery counts are those that programs have saved or exported so far; the last
    seconds may be missing.
    """
    from spanbus._backend.forward import FORWARD
    from spanbus._delivery.dead_letters import REFUSED
    from spanbus._delivery.ledger import Ledger
    from spanbus._delivery.liveness import failing
    from spanbus._delivery.spool_files import APART, FOLDER
    from spanbus._delivery.spool_status import status
    from spanbus._semantics import names
    from spanbus._store.read_only import takes_files

    found = status(settings.state_dir)
    trouble: StoreError | None = None
    known = Ledger(settings.state_dir).read()
    counts = {
        names.DELIVERY_DELIVERED: dict(known.delivered),
        names.DELIVERY_REJECTED: dict(known.rejected),
        names.DELIVERY_DROPPED_RECORDS: dict(known.dropped),
    }
    try:
        _add_exported(counts, settings)
    except StoreError as error:
        trouble = error
    delivered, rejected, dropped = (
        [
            {**({"reason": reason} if reason else {}), "signal": signal, "records": count}
            for (signal, reason), count in sorted(found.items())
        ]
        for found in counts.values()
    )
    refused = settings.state_dir / REFUSED
    return {
        "state_dir": str(settings.state_dir),
        "writable": takes_files(settings.state_dir),
        "endpoint": _endpoint(settings),
        "spool": {
            "bytes": found.bytes,
            "files": found.files,
            "oldest_age_s": round(max(0.0, time.time() - found.oldest_at_ns / 1e9), 3)
            if found.oldest_at_ns
            else None,
            "programs": found.alive,
            "left_open": found.left_open,
            "set_aside": found.set_aside,
            "quota_bytes": settings.spool_quota_bytes,
        },
        "waiting": [
            *(
                {"destination": destination, "signal": str(signal), "records": count}
                for (destination, signal), count in sorted(found.waiting.items())
            ),
            *(
                {"destination": FORWARD, "signal": str(signal), "records": count}
                for (_, signal), count in sorted(
                    status(settings.state_dir / FORWARD).waiting.items()
                )
            ),
        ],
        "failing": [
            {
                "destination": each.shown,
                "reason": each.reason,
                "age_s": round(max(0.0, time.time() - each.at_s), 3),
            }
            for folder in (settings.state_dir, *sorted(settings.state_dir.glob(f"{APART}*")))
            for each in failing(folder / FOLDER)
        ]
        if any(found.waiting.values())
        else [],
        "delivered": delivered,
        "rejected": rejected,
        "dropped": dropped,
        "refused": {
            "folder": str(refused),
            "files": len(list(refused.glob("*.otlp"))) if refused.is_dir() else 0,
        },
        "store_error": str(trouble) if trouble is not None else None,
    }


def _endpoint(settings: Settings) -> str | None:
    from spanbus._delivery.endpoints import endpoints
    from spanbus._otlp.signals import Signal

    return endpoints(os.environ, Signal.TRACES).shown if settings.endpoint_configured else None


def _add_exported(counts: dict[str, dict[tuple[str, str], int]], settings: Settings) -> None:
    """Use the counts that running programs have exported to the local store if they exceed the saved ones."""
    from spanbus._runtime import STORE_NAME
    from spanbus._semantics import names
    from spanbus._store.store import Store

    path: Path = settings.state_dir / STORE_NAME
    if not path.exists():
        return
    with Store.open_to_read(path) as store:
        for each in store.metric_series():
            if each.name in counts and each.value:
                key = (
                    each.attributes.get(names.DELIVERY_SIGNAL, ""),
                    each.attributes.get(names.DELIVERY_REASON, ""),
                )
                counts[each.name][key] = max(counts[each.name].get(key, 0), int(each.value))


def _rows(rows: object) -> list[tuple[str, str, str]]:
    assert isinstance(rows, list)
    return [
        (
            str(row.get("destination") or row.get("reason") or ""),  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            str(row["signal"]),  # pyright: ignore[reportUnknownArgumentType]
            str(row["records"]),  # pyright: ignore[reportUnknownArgumentType]
        )
        for row in rows  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]
    ]


def _age(age_s: object) -> str:
    from spanbus._cli.draw import seconds

    return f"{seconds(float(age_s))} old" if isinstance(age_s, int | float) else "none"
