"""Where the running backend of a state directory is found.

``backend.json`` holds the address, the token and the process of the backend that serves a state directory. It is written
with mode 0600 and is believed only when it belongs to this user and its process lives.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple, cast

FILE_NAME = "backend.json"


class ProcessId(NamedTuple):
    """A process of this or another machine; ``started`` tells it from a later one with the same number."""

    pid: int
    started: str
    host: str

    @classmethod
    def own(cls) -> ProcessId:
        return cls(os.getpid(), process_started(os.getpid()) or "", socket.gethostname())

    def gone(self) -> bool:
        """True when the process is known to have ended; False when it lives or cannot be known from here."""
        if self.host != socket.gethostname() or self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        started = process_started(self.pid)
        return started is not None and (started == "" or (self.started != "" and started != self.started))


def process_started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks: ``""`` for one that ended and was not yet reaped, None where it cannot be known."""
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
    """Make the backend known. Replaces the file of an earlier one in one step."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = state_dir / FILE_NAME
    handle, temporary = tempfile.mkstemp(dir=state_dir, prefix=".backend-")  # mkstemp: 0600 from the beginning
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"v": 1, "url": address.url, "token": address.token, **address.process._asdict()}, file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_address(state_dir: Path) -> Address | None:
    """The backend that serves ``state_dir`` now, or None."""
    path = state_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            document: object = json.loads(file.read(65_536))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict):
        return None
    members = cast("dict[str, object]", document)
    url, token, pid = members.get("url"), members.get("token"), members.get("pid")
    if not isinstance(url, str) or not isinstance(token, str) or not isinstance(pid, int):
        return None
    process = ProcessId(pid, str(members.get("started", "")), str(members.get("host", "")))
    return None if process.gone() else Address(url, token, process)


def remove_address(state_dir: Path, token: str) -> None:
    """Take the file back, if it is still ours."""
    path = state_dir / FILE_NAME
    try:
        if json.loads(path.read_bytes()).get("token") == token:
            path.unlink()
    except (OSError, ValueError, AttributeError):
        return
