"""Reading of kept command output, also while a command runs."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from spanbus._named_tuple import NamedTuple
from spanbus._store.output import FOLDER, folder_of

_BLOCK = 1 << 18
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,15})")


class KeptOutput(NamedTuple):
    """Kept output of one command of a run. ``ended`` is False while it runs, and if its run was killed."""

    folder: Path
    name: str
    phase: str
    tool: str
    attempt: int
    command: tuple[str, ...]
    span_id: str | None
    ended: bool
    status: str | None
    exit_code: int | None

    @property
    def path(self) -> Path:
        """File with the output, or its first part."""
        return self.folder / f"{self.name}.log.gz"

    @property
    def failed(self) -> bool:
        return self.status not in (None, "passed")

    def parts(self) -> list[Path]:
        """All parts in order."""
        numbered = [
            (int(path.name.split(".")[1]), path)
            for path in self.folder.glob(f"{self.name}.*.log.gz")
            if path.name.split(".")[1].isdigit()
        ]
        first = [(0, self.path)] if self.path.exists() else []
        return [path for _, path in sorted([*first, *numbered])]

    def size_bytes(self) -> int:
        """Compressed size of all parts."""
        size = 0
        for path in self.parts():
            with suppress(OSError):  # deleted meanwhile
                size += path.stat().st_size
        return size

    def text(self) -> str:
        """All kept text, with a line at the place of deleted parts."""
        return Reader(self).more()


class Reader:
    """Incremental reader of a command's output."""

    def __init__(self, kept: KeptOutput) -> None:
        self._kept = kept
        self._part: Path | None = None
        self._at = 0
        self._number = -1
        self._unpacker = zlib.decompressobj(31)
        self._rest = b""

    def more(self) -> str:
        """Read the complete lines since the last call."""
        found: list[bytes] = []
        for path in self._kept.parts():
            words = path.name.split(".")
            number = int(words[1]) if words[1].isdigit() else 0
            if number < self._number:
                continue
            if number > self._number:
                if number > self._number + 1:
                    found.append(b"... some output was deleted here ...\n")
                self._number, self._at = number, 0
                self._unpacker = zlib.decompressobj(31)
            with suppress(OSError, zlib.error), path.open("rb") as file:
                file.seek(self._at)
                while data := file.read(_BLOCK):
                    self._at += len(data)
                    found.append(self._unpacker.decompress(data))
        data = self._rest + b"".join(found)
        whole, newline, self._rest = data.rpartition(b"\n")
        return (whole + newline).decode("utf-8", "replace")


def newest_line(text: str) -> str:
    """Last line that is not blank; empty without one."""
    return next((line for line in reversed(text[-8_192:].splitlines()) if line.strip()), "")


class Excerpt(NamedTuple):
    """A piece of an output, with the position ``at`` to continue from."""

    text: str
    at: str
    left_out: bool
    """Text between the requested position and ``text`` was left out."""


def excerpt(kept: KeptOutput, after: str = "", most_bytes: int = 512 * 1024) -> Excerpt:
    """Complete lines after a position, the last ``most_bytes`` of them; ``after`` is empty or the ``at`` of an excerpt."""
    place = _PLACE.fullmatch(after)
    part, offset = (int(place[1]), int(place[2])) if place is not None else (0, 0)
    held, left_out, at, before = bytearray(), False, (part, offset), part
    for path in kept.parts():
        words = path.name.split(".")
        number = int(words[1]) if words[1].isdigit() else 0
        if number < part:
            continue
        left_out, before = left_out or number > before + 1, number
        seen = 0
        for piece in _unpacked(path):
            held += piece[max(0, offset - seen) :] if number == part else piece
            if (newline := piece.rfind(b"\n")) >= 0:
                at = max(at, (number, seen + newline + 1))
            seen += len(piece)
            if len(held) > 2 * most_bytes:
                del held[:-most_bytes]
                left_out = True
    del held[held.rfind(b"\n") + 1 :]
    if len(held) > most_bytes:
        del held[:-most_bytes]
        left_out = True
    if left_out:  # the first line may be cut
        del held[: held.find(b"\n") + 1]
    return Excerpt(held.decode("utf-8", "replace"), f"{at[0]}:{at[1]}", left_out)


def _unpacked(path: Path) -> Iterator[bytes]:
    """Yield the content of one part, as far as it is written, in pieces of bounded size."""
    unpacker = zlib.decompressobj(31)
    with suppress(OSError, zlib.error), path.open("rb") as file:
        while data := file.read(_BLOCK):
            while data:
                piece = unpacker.decompress(data, _BLOCK)
                if piece:
                    yield piece
                data = unpacker.unconsumed_tail


def kept_outputs(state_dir: Path, run_id: str) -> list[KeptOutput]:
    """Kept outputs of a run's commands, in the order of their starts."""
    folder = folder_of(state_dir, run_id)
    return [
        _kept(folder, name, about) for name, about in _index(folder).items() if "phase" in about
    ]


def is_running(state_dir: Path, run_id: str) -> bool:
    """Whether a run with kept output has not ended and its process lives."""
    about = _index(folder_of(state_dir, run_id)).get("run", {})
    pid = about.get("pid")
    if "ended_at" in about or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def newest_run(state_dir: Path, project: str | None) -> str | None:
    """Id of the run (of this project) that wrote output last; it may be running."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for path in (state_dir / FOLDER).glob("*/index.jsonl"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
    for _, path in sorted(found, reverse=True):
        about = _index(path.parent).get("run", {})
        if project is None or about.get("project") == project:
            return str(about.get("run_id") or "") or None
    return None


def _index(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for line in _lines(folder / "index.jsonl"):
        with suppress(ValueError, RecursionError):
            parsed = cast("object", json.loads(line))
            if isinstance(parsed, dict):
                table = cast("dict[str, object]", parsed)
                found.setdefault(str(table.get("file")), {}).update(table)
    return found


def log_paths(state_dir: Path, run_id: str) -> dict[str, str]:
    """Files of kept output by span id of the command."""
    return {
        kept.span_id: str(kept.path)
        for kept in kept_outputs(state_dir, run_id)
        if kept.span_id is not None and kept.path.exists()
    }


def _lines(path: Path) -> Iterator[str]:
    with suppress(OSError):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()


def _kept(folder: Path, name: str, about: dict[str, object]) -> KeptOutput:
    def text(key: str) -> str | None:
        value = about.get(key)
        return value if isinstance(value, str) else None

    def number(key: str) -> int | None:
        value = about.get(key)
        return value if isinstance(value, int) else None

    command = about.get("command")
    return KeptOutput(
        folder,
        name if name.isdigit() else "0",
        text("phase") or "",
        text("tool") or "",
        number("attempt") or 1,
        tuple(str(part) for part in cast("list[object]", command))
        if isinstance(command, list)
        else (),
        text("span_id"),
        "ended_at" in about,
        text("status"),
        number("exit_code"),
    )
