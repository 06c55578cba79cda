"""Full output of every command, in compressed files beside the local store.

The folder of a run, ``logs/RUN``, holds an index of JSON lines and one gzip file per command, split into parts when it is long.
All text is redacted before it is written. The oldest files are deleted when the total exceeds ``store_logs_bytes``; of one
command, the first and the newest parts are kept. The output of a running command can be read.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from spanbus._closing import Closing
from spanbus._delivery.regular_files import open_own
from spanbus._store import LOGS

FOLDER: Final = LOGS
_INDEX: Final = "index.jsonl"
_RUN: Final = "run"
_CHUNK_CHARS: Final = 65_536
_PAUSE_S: Final = 0.2
_BACKLOG_CHARS: Final = 32 * 2**20
"""Above it a command blocks until its output is written."""
_BEGIN, _END = "-----BEGIN ", "-----END "

Clean = Callable[[str], str]
Emit = Callable[[str], None]


def folder_of(state_dir: Path, run_id: str) -> Path:
    """Folder for the output of a run; the run id is quoted, because it may hold any character."""
    name = quote(run_id, safe="")[:200]
    return state_dir / FOLDER / (f"%2E{name[1:]}" if name.startswith(".") else name or "%")


class OutputLog(Closing):
    """Writer of the output of one run. Use it as a context manager; leaving waits until all of it is written."""

    def __init__(
        self,
        state_dir: Path,
        run_id: str,
        clean: Clean,
        limit_bytes: int,
        *,
        project: str = "",
    ) -> None:
        self._run_id = run_id
        self._project = project
        self._root = state_dir / FOLDER
        self._folder = folder_of(state_dir, run_id)
        self._clean = clean
        self._limit_bytes = limit_bytes
        self._number = 0
        self._backlog = 0
        self._queue: deque[tuple[CommandOutput, str | None]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._urgent = False
        self._broken: OSError | None = None

    def command(
        self,
        phase: str,
        tool: str,
        argv: Sequence[str],
        *,
        attempt: int = 1,
        span_id: str | None = None,
        emit: Emit | None = None,
    ) -> CommandOutput:
        """Return the output file of one command; ``emit`` is also called with each redacted line."""
        self._number += 1
        made = CommandOutput(
            self,
            f"{self._number:04d}",
            {
                "phase": phase,
                "tool": tool,
                "attempt": attempt,
                "command": [self._clean(part) for part in argv],
                "span_id": span_id,
                "started_at": time.time(),
            },
            emit,
        )
        if self._thread is None:
            self._safely(
                self.index,
                {
                    "file": _RUN,
                    "run_id": self._run_id,
                    "project": self._project,
                    "pid": os.getpid(),
                },
            )
            thread = threading.Thread(target=self._work, name="spanbus-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: the output is not kept
                return made
            self._thread = thread
        return made

    def close(self) -> None:
        """Write everything that waits, then delete the oldest files above the limit."""
        if self._thread is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._thread = None
        self._safely(self.index, {"file": _RUN, "ended_at": time.time()})
        sweep(self._root, self._limit_bytes, keep=self._folder.name)

    # --- between the threads ------------------------------------------------------------------------------------------

    def put(self, where: CommandOutput, text: str | None) -> None:
        """Queue text, or None at the end of a command."""
        if self._thread is None:
            return
        with self._changed:
            while self._backlog > _BACKLOG_CHARS and self._broken is None:
                self._changed.wait(1.0)
            self._queue.append((where, text))
            self._backlog += len(text or "")
            if text is None or self._backlog > _CHUNK_CHARS:
                self._urgent = True
                self._changed.notify_all()

    def _work(self) -> None:
        open_commands: set[CommandOutput] = set()
        while True:
            with self._changed:
                if not self._urgent and not self._closing:
                    self._changed.wait(_PAUSE_S)
                self._urgent = False
                taken, self._queue = self._queue, deque()
                self._backlog = 0
                done = self._closing and not taken
                self._changed.notify_all()
            for where, text in taken:
                if text is None:
                    self._safely(where.finish)
                    open_commands.discard(where)
                else:
                    open_commands.add(where)
                    where.pending.append(text)
                    where.pending_chars += len(text) + 1
                    if where.pending_chars >= _CHUNK_CHARS:
                        self._safely(where.write)
            for where in open_commands:
                self._safely(where.write, True)
            if done:
                return

    def _safely(self, work: Callable[..., None], *arguments: object) -> None:
        """Stop writing at the first OSError: a full disk costs the kept output and nothing else."""
        if self._broken is None:
            try:
                work(*arguments)
            except OSError as error:
                self._broken = error

    # --- files --------------------------------------------------------------------------------------------------------

    def clean(self, text: str) -> str:
        return self._clean(text)

    def open_part(self, name: str) -> IO[bytes]:
        self._make_folder()
        path = self._folder / name
        return os.fdopen(open_own(path, os.O_WRONLY | os.O_TRUNC), "wb")

    def index(self, line: Mapping[str, object]) -> None:
        self._make_folder()
        path = self._folder / _INDEX
        with os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def _make_folder(self) -> None:
        """Create the folder and its parents, each with mode 0o700; ``mkdir(parents=True)`` would apply it only to the last."""
        for folder in (self._root.parent, self._root, self._folder):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def drop(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / name).unlink()

    @property
    def part_bytes(self) -> int:
        """Size of a part. The first and the last two parts are kept, so that one command takes at most a quarter of the limit."""
        return max(4_096, self._limit_bytes // 12)


class CommandOutput:
    """One command's output; ``line`` and ``close`` may be called in any thread."""

    def __init__(
        self, log: OutputLog, name: str, about: Mapping[str, object], emit: Emit | None
    ) -> None:
        self._log = log
        self._name = name
        self._about = about
        self._emit = emit
        self._ending: Mapping[str, object] = {}
        self._file: IO[bytes] | None = None
        self._part = 0
        self._written = 0
        self._announced = False
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self.pending: list[str] = []
        self.pending_chars = 0

    def line(self, text: str) -> None:
        """Add one line, without its line end."""
        self._log.put(self, text)

    def close(self, ending: Mapping[str, object]) -> None:
        """End the output with the command's ``status``, ``exit_code`` and ``error``."""
        self._ending = {key: ending.get(key) for key in ("status", "exit_code", "error")}
        self._log.put(self, None)

    # --- in the thread of the log -------------------------------------------------------------------------------------

    def write(self, flush: bool = False) -> None:
        """Redact and write pending lines; those of a private key wait until its end, so that it is redacted as a whole."""
        if self.pending and not self._within_key():
            text = self._log.clean("\n".join(self.pending))
            self.pending, self.pending_chars = [], 0
            if self._emit is not None:
                for line in text.split("\n"):
                    self._emit(line)
            self._put(self._packer.compress((text + "\n").encode("utf-8", "replace")))
            if flush:
                self._put(self._packer.flush(zlib.Z_SYNC_FLUSH))
            if self._written > self._log.part_bytes:
                self._next_part()
        if not self._announced:
            self._announce()

    def finish(self) -> None:
        self.pending_chars = _CHUNK_CHARS  # do not wait for the end of a key
        self.write()
        self._put(self._packer.flush(zlib.Z_FINISH))
        if self._file is not None:
            self._file.close()
            self._file = None
        about = {key: value for key, value in self._ending.items() if value is not None}
        if isinstance(error := about.get("error"), str):
            about["error"] = self._log.clean(error)
        self._log.index({"file": self._name, "ended_at": time.time(), **about})

    def _within_key(self) -> bool:
        if self.pending_chars >= _CHUNK_CHARS:
            return False
        text = "\n".join(self.pending[-200:])
        return text.rfind(_BEGIN) > text.rfind(_END)

    def _announce(self) -> None:
        self._announced = True
        self._log.index({"file": self._name, **self._about})

    def _put(self, data: bytes) -> None:
        if not self._announced:
            self._announce()
        if self._file is None:
            suffix = f".{self._part}" if self._part else ""
            self._file = self._log.open_part(f"{self._name}{suffix}.log.gz")
        self._file.write(data)
        self._file.flush()
        self._written += len(data)

    def _next_part(self) -> None:
        self._put(self._packer.flush(zlib.Z_FINISH))
        if self._file is not None:
            self._file.close()
        self._file, self._written = None, 0
        self._packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._part += 1
        if self._part > 2:
            self._log.drop(f"{self._name}.{self._part - 2}.log.gz")


def sweep(root: Path, limit_bytes: int, *, keep: str = "") -> None:
    """Delete the oldest files until the total is at most ``limit_bytes``; those of the run ``keep`` last."""
    found: list[tuple[bool, float, int, Path]] = []
    with suppress(OSError):
        for path in root.glob("*/*.log.gz"):
            with suppress(OSError):
                status = path.stat()
                found.append((path.parent.name == keep, status.st_mtime, status.st_size, path))
    total = sum(size for _, _, size, _ in found)
    for _, _, size, path in sorted(found):
        if total <= limit_bytes:
            break
        with suppress(OSError):
            path.unlink()
            total -= size
        with suppress(OSError):
            if not any(path.parent.glob("*.log.gz")):
                (path.parent / _INDEX).unlink()
                path.parent.rmdir()


def forget(state_dir: Path, is_kept: Callable[[str], bool], *, older_than_s: float) -> None:
    """Delete the output of deleted runs. ``older_than_s`` spares runs that are open or not stored yet."""
    now_s = time.time()
    with suppress(OSError):
        for folder in (state_dir / FOLDER).iterdir():
            with suppress(OSError):
                if now_s - folder.stat().st_mtime < older_than_s or is_kept(folder.name):
                    continue
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
