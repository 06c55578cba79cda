"""Address of the running backend of a state directory.

``backend.json`` holds the address, the token and the process of the backend that serves a state directory. It is written with
mode 0600. It is trusted only if it is a file of this user that nobody else may write, its process is alive on this host, and its
address is plain http on the loopback or, with ``--listen``, on an address of this host.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import cast

from spanbus._host import host_name
from spanbus._named_tuple import NamedTuple
from spanbus._patterns import pattern

FILE_NAME = "backend.json"


class ProcessId(NamedTuple):
    """A process on this or another host; ``started`` distinguishes it from a later one with the same pid."""

    pid: int
    started: str
    host: str

    @classmethod
    def own(cls) -> ProcessId:
        return cls(os.getpid(), process_started(os.getpid()) or "", host_name())

    def lives_here(self) -> bool:
        """Whether it is a living process of this host with this start time."""
        if self.host != host_name() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except (OSError, OverflowError):
            return False
        started = process_started(self.pid)
        return started is None or (started != "" and started == self.started)

    def gone(self) -> bool:
        """Whether the process is known to have ended; False if it lives or is on another host."""
        if self.host != host_name() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        started = process_started(self.pid)
        return started is not None and (
            started == "" or (self.started != "" and started != self.started)
        )


def process_started(pid: int) -> str | None:
    """Start time of a process in kernel ticks; ``""`` for a zombie, None if it is unknown."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20:
        return None
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


class Address(NamedTuple):
    """A running backend: ``url`` without a trailing slash."""

    url: str
    token: str
    process: ProcessId


def write_address(state_dir: Path, address: Address) -> Path:
    """Write the address of the backend, atomically replacing an earlier one."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = state_dir / FILE_NAME
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=state_dir, prefix=".backend-")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(
                {"v": 1, "url": address.url, "token": address.token, **address.process._asdict()},
                file,
            )
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_address(state_dir: Path) -> Address | None:
    """Return the backend that serves ``state_dir`` now, or None."""
    document = _document(state_dir / FILE_NAME)
    if document is None:
        return None
    url, token, pid = document.get("url"), document.get("token"), document.get("pid")
    if not isinstance(url, str) or not isinstance(token, str) or not isinstance(pid, int):
        return None
    process = ProcessId(pid, str(document.get("started", "")), str(document.get("host", "")))
    if not process.lives_here() or not _is_local_url(url) or _TOKEN.fullmatch(token) is None:
        return None
    return Address(url, token, process)


_URL = pattern(r"http://(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})", re.ASCII)
_TOKEN = pattern(r"[\x21-\x7e]{1,1024}")
_MOST_BYTES = 65_536


def _document(path: Path) -> dict[str, object] | None:
    """Read a JSON object from a regular file of this user that nobody else may write, without following links or blocking."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            if hasattr(os, "getuid") and (
                status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            ):
                return None
            document: object = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, object]", document) if isinstance(document, dict) else None


def _is_local_url(url: str) -> bool:
    """Whether a URL is plain http on a numeric address of this host, with a port and nothing else."""
    match = _URL.fullmatch(url)
    if match is None or not 0 < int(match[3]) < 65_536:
        return False
    try:
        import ipaddress

        address = ipaddress.ip_address(match[1] or match[2])
    except ValueError:
        return False
    if address.is_unspecified or address.is_multicast:
        return False
    return address.is_loopback or _is_local_address(str(address))


def _is_local_address(address: str) -> bool:
    """Whether an address belongs to this host: only then it can be bound."""
    import socket  # lazy: not needed by a command without a backend

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def remove_address(state_dir: Path, token: str) -> None:
    """Remove the file if it is still ours."""
    path = state_dir / FILE_NAME
    document = _document(path)
    if document is not None and document.get("token") == token:
        with suppress(OSError):
            path.unlink()
