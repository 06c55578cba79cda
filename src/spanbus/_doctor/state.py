"""Checks of this machine: state directory, spool, local store and their backend."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing

from spanbus._backend.address import read_address
from spanbus._delivery.dead_letters import REFUSED
from spanbus._delivery.spool import Spool
from spanbus._delivery.spool_files import FOLDER, SpoolUnavailable
from spanbus._delivery.spool_status import status
from spanbus._doctor.asking import Answer, Server, Silence, ask, at, text
from spanbus._doctor.findings import Finding, not_configured, ok, warning, wrong
from spanbus._pluralize import pluralize
from spanbus._runs.format import duration
from spanbus._runtime import STORE_NAME
from spanbus._settings import Settings, is_open_to_others
from spanbus._store.opening import check
from spanbus._store.read_only import reading
from spanbus._store.schema import VERSION
from spanbus._version import __version__
from spanbus.errors import DeliveryError, StoreError

_OLD_S = 60.0
_FULL = 0.8


def state(settings: Settings, *, sends: bool) -> list[Finding]:
    """Check state directory, spool and store. ``sends`` is set if there is a destination besides the local store."""
    found = [_state_dir(settings)]
    return [*found, *_spool(settings, sends=sends), _store(settings)]


def _state_dir(settings: Settings) -> Finding:
    try:
        Spool(settings.state_dir, quota_bytes=settings.spool_quota_bytes).open().close()
        free = shutil.disk_usage(settings.state_dir).free
    except (SpoolUnavailable, DeliveryError) as error:
        return wrong(
            "state_dir",
            str(error),
            "until then telemetry is kept in memory, and what is not delivered when a program ends is lost",
        )
    except OSError as error:
        return wrong(
            "state_dir",
            f"{settings.state_dir}: {error.strerror or error}",
            "set SPANBUS_STATE_DIR to a folder that can be written",
        )
    if free < settings.spool_quota_bytes:
        return warning(
            "state_dir",
            f"{settings.state_dir} has {_bytes(free)} left on its disk, and the spool may take {_bytes(settings.spool_quota_bytes)}",
            "make room, or set SPANBUS_SPOOL_QUOTA_BYTES lower",
        )
    if is_open_to_others(settings.state_dir):
        return warning(
            "state_dir",
            f"{settings.state_dir} can be written by everybody",
            f"chmod o-w {settings.state_dir}",
        )
    return ok("state_dir", f"{settings.state_dir} can be written, {_bytes(free)} left")


def _spool(settings: Settings, *, sends: bool) -> list[Finding]:
    folder = settings.state_dir / FOLDER
    try:
        seen = status(settings.state_dir)
        refused = len(list((settings.state_dir / REFUSED).glob("*.otlp")))
    except OSError as error:
        return [
            wrong(
                "spool", f"{folder}: {error.strerror or error}", "give the folder back to this user"
            )
        ]
    found: list[Finding] = []
    waiting = sum(seen.waiting.values())
    age_s = max(0.0, time.time() - seen.oldest_at_ns / 1e9) if seen.oldest_at_ns else 0.0
    remote = sum(
        count for (destination, _), count in seen.waiting.items() if destination == "remote"
    )
    if remote and not sends:
        found.append(
            warning(
                "spool",
                f"{pluralize(remote, 'record waits', 'records wait')} for a collector, and OTEL_EXPORTER_OTLP_ENDPOINT is not set here",
                "set it and run `spanbus flush`",
            )
        )
    elif waiting and age_s > _OLD_S:
        found.append(
            warning(
                "spool",
                f"{pluralize(waiting, 'record waits', 'records wait')}, the oldest for {duration(age_s)}",
                "`spanbus flush` delivers them, or says why not",
            )
        )
    if seen.bytes > _FULL * settings.spool_quota_bytes:
        found.append(
            warning(
                "spool",
                f"{_bytes(seen.bytes)} of {_bytes(settings.spool_quota_bytes)} are used; above it the oldest records are dropped",
                "bring the collector back, or set SPANBUS_SPOOL_QUOTA_BYTES higher",
            )
        )
    if seen.set_aside:
        found.append(
            warning(
                "spool",
                pluralize(
                    seen.set_aside,
                    "file cannot be read and was set aside",
                    "files cannot be read and were set aside",
                ),
                f"delete {folder}/*.bad when nobody wants to look into them",
            )
        )
    if refused:
        found.append(
            warning(
                "spool",
                pluralize(
                    refused,
                    "request was refused by the collector for good",
                    "requests were refused by the collector for good",
                ),
                f"kept in {settings.state_dir / REFUSED}; `spanbus status` has the reasons",
            )
        )
    newer = _newer(settings)
    if newer:
        found.append(
            wrong(
                "spool",
                pluralize(
                    newer,
                    "file was written by a newer spanbus",
                    "files were written by a newer spanbus",
                ),
                "update this one, or run `spanbus flush` with that one",
            )
        )
    return found or [
        ok(
            "spool",
            f"{pluralize(waiting, 'record waits', 'records wait')}, {pluralize(seen.alive, 'program is', 'programs are')} running"
            if waiting or seen.alive
            else "nothing waits",
        )
    ]


def _newer(settings: Settings) -> int:
    from spanbus._delivery.segment import BadSegment, Segment

    count = 0
    for path in (settings.state_dir / FOLDER).glob("*.seg"):
        try:
            Segment.recover(bytearray(path.read_bytes()), path, None)
        except BadSegment as error:
            count += error.newer
        except OSError:  # delivered and deleted meanwhile
            continue
    return count


def _store(settings: Settings) -> Finding:
    path = settings.state_dir / STORE_NAME
    if settings.local == "off":
        return not_configured(
            "store", f"local=off ({settings.origin['local']}): no run is stored here"
        )
    try:
        check(path)
    except StoreError as error:
        return wrong("store", str(error), "move it away; the next run makes a new one")
    if not path.exists():
        return not_configured("store", "no run is stored yet")
    try:
        source = reading(path)
        try:
            with closing(sqlite3.connect(source.uri, uri=True, timeout=5.0)) as connection:
                version = int(connection.execute("PRAGMA user_version").fetchone()[0])
                runs = (
                    int(
                        connection.execute(
                            "SELECT count(*) FROM spans WHERE level = 'run'"
                        ).fetchone()[0]
                    )
                    if version
                    else 0
                )
        finally:
            source.done()
    except (sqlite3.Error, OSError) as error:
        return wrong(
            "store", f"{path} cannot be read: {error}", "move it away; the next run makes a new one"
        )
    if version > VERSION:
        return wrong(
            "store",
            f"{path} has schema {version}, this spanbus ({__version__}) knows {VERSION}",
            "update spanbus, or set SPANBUS_STATE_DIR to another folder",
        )
    return ok(
        "store", f"{path} holds {pluralize(runs, 'run', 'runs')}, {_bytes(path.stat().st_size)}"
    )


def backend(settings: Settings, env: Mapping[str, str], timeout_s: float) -> Finding:
    """Check the backend of this state directory."""
    address = read_address(settings.state_dir)
    if address is None:
        return not_configured("backend", "`spanbus up` is not running for this state directory")
    answer = ask(
        Server(address.url, (("authorization", f"Bearer {address.token}"),)),
        "/health",
        env,
        timeout_s,
    )
    if isinstance(answer, Silence):
        return wrong(
            "backend",
            f"`spanbus up` (process {address.process.pid}) at {address.url} does not answer: {answer.reason}",
            "stop that process and start it again",
        )
    version = backend_version(answer)
    if version is None:
        return wrong(
            "backend",
            f"{address.url} is not `spanbus up`: {answer.described}",
            f"delete {settings.state_dir}/backend.json and start `spanbus up` again",
        )
    if version != __version__:
        return warning(
            "backend",
            f"`spanbus up` at {address.url} is version {version}, this is {__version__}",
            "start it again with the same version",
        )
    return ok("backend", f"`spanbus up` serves at {address.url}")


def backend_version(answer: Answer) -> str | None:
    """Return the version of the embedded backend from its ``/health`` answer; None for another program."""
    document = answer.json()
    if (
        answer.status != 200
        or at(document, "status") != "ok"
        or at(document, "receiver", "requests") is None
    ):
        return None
    return text(document, "version") or "unknown"


def _bytes(count: int) -> str:
    number = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1_024:
            return f"{number:.0f} {unit}"
        number /= 1_024
    return f"{number:.1f} GiB"
