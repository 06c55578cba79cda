"""Replay of a recorded event stream in publication order.

Lines may be shuffled or duplicated. The stream is sorted by publication time, then by event id if ids are ordered (UUIDv7
and our own), then by line number. An ordered stream is not copied; any other is sorted in chunks on disk, so that memory
use does not grow with its size.
"""

from __future__ import annotations

import gzip
import heapq
import json
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, BinaryIO, cast

from spanbus._hash import blake2b
from spanbus._named_tuple import NamedTuple
from spanbus._pluralize import pluralize
from spanbus._reading.facts import Fact
from spanbus._reading.places import Keys
from spanbus._reading.read import Raw, published_at_ns, read
from spanbus._reading.reader import Reader
from spanbus.errors import StreamError

LINE_LIMIT_BYTES = 16 * 1024 * 1024
SORT_CHUNK_BYTES = 16 * 1024 * 1024
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_ORDERED_ID = re.compile(rf"[0-9a-f]{{12}}-[0-9a-f]{{8}}-[0-9a-f]{{10}}|{_UUID7.pattern}", re.ASCII)


class BrokenLine(NamedTuple):
    """A line that could not be used, with its position and the reason."""

    file: str
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.reason}"


class _Key(NamedTuple):
    at_ns: int
    event_id: str
    number: int


def facts(
    path: Path,
    reader: Reader,
    *,
    on_broken: Callable[[BrokenLine], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
) -> Iterator[Fact]:
    """Yield the facts of a stream of JSON lines (optionally gzipped), oldest first.

    ``progress`` is called with the bytes done and the total, over both passes. ``scratch`` is the folder for sorting a large
    unordered stream. Raises :class:`~spanbus.errors.StreamError` when the file cannot be read or contains no event.
    """
    for raw in raws(
        path, reader.dialect.keys, on_broken=on_broken, progress=progress, scratch=scratch
    ):
        yield reader.raw(raw)


def raws(
    path: Path,
    keys: Keys,
    *,
    on_broken: Callable[[BrokenLine], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
) -> Iterator[Raw]:
    """Yield the events of a stream before any rule, oldest first; otherwise like :func:`facts`."""
    with ExitStack() as stack:
        source = _Source(path, stack, on_broken, progress, keys)
        events = 0
        last: _Key | None = None
        for key, _ in source.lines(report=True):
            events += 1
            source.in_order = source.in_order and (last is None or last <= key)
            last = key
        if not events:
            detail = (
                f"; {pluralize(source.broken, 'line', 'lines')} could not be used, the first: {source.first_broken}"
                if source.broken
                else ", it is empty"
            )
            raise StreamError(f"{path}: no event in this file{detail}")
        source.untimed_at(time.time_ns())
        lines = (
            source.lines(report=False)
            if source.in_order
            else _sorted(source.lines(report=False), stack, scratch)
        )
        for key, line in lines:
            yield _read(line, key, keys)


def _read(line: bytes, key: _Key, keys: Keys) -> Raw:
    event = json.loads(line)
    raw = read(event, keys, after_ns=key.at_ns)
    if not raw.event_id:  # equal lines with a timestamp are duplicates of one event
        mark = b"" if raw.timed else b"%d" % key.number
        raw.event_id = f"line:{blake2b(line.strip() + mark, digest_size=12).hexdigest()}"
    if not raw.timed:
        raw.at_ns = key.at_ns
    return raw


class _Source:
    """The lines of one file, which can be read repeatedly."""

    def __init__(
        self,
        path: Path,
        stack: ExitStack,
        on_broken: Callable[[BrokenLine], None] | None,
        progress: Callable[[int, int], None] | None,
        keys: Keys,
    ) -> None:
        self._path = path
        self._keys = keys
        self._on_broken = on_broken
        self._progress = progress
        self.broken = 0
        self.first_broken: BrokenLine | None = None
        self.in_order = True
        self._passes = 0
        self._first_at_ns = 0
        try:
            if str(path) == "-":
                import sys

                self._file: BinaryIO = cast(
                    "BinaryIO",
                    stack.enter_context(tempfile.TemporaryFile()),  # noqa: SIM115
                )
                shutil.copyfileobj(sys.stdin.buffer, self._file)
            else:
                self._file = stack.enter_context(path.open("rb"))
            self._size = self._file.seek(0, 2)
            self._file.seek(0)
            self._gzip = self._file.read(2) == b"\x1f\x8b"
        except OSError as error:
            raise StreamError(f"{path}: {error.strerror or error}") from error

    def untimed_at(self, now_ns: int) -> None:
        """Set the time of lines before the first timestamp: that timestamp, or ``now_ns`` if no line has one."""
        self._first_at_ns = self._first_at_ns or now_ns

    def lines(self, *, report: bool) -> Iterator[tuple[_Key, bytes]]:
        """Yield every usable line with its sort key. Unusable lines are reported if ``report`` is true."""
        self._file.seek(0)
        reader = cast("IO[bytes]", gzip.GzipFile(fileobj=self._file)) if self._gzip else self._file
        offset = self._passes * self._size
        self._passes += 1
        number = 0
        at_ns = self._first_at_ns
        while True:
            try:
                line = reader.readline(LINE_LIMIT_BYTES + 1)
            except (EOFError, OSError, zlib.error) as error:
                if report:
                    self._report(number + 1, f"the compressed stream breaks off here ({error})")
                return
            if not line:
                return
            number += 1
            if self._progress is not None and number % 512 == 0:
                self._progress(offset + self._file.tell(), self._size * 2)
            if len(line) > LINE_LIMIT_BYTES:
                while not line.endswith(b"\n") and (line := reader.readline(LINE_LIMIT_BYTES)):
                    pass
                if report:
                    self._report(number, f"longer than {LINE_LIMIT_BYTES} bytes")
                continue
            if line.isspace():
                continue
            try:
                event: object = json.loads(line)
                if not isinstance(event, Mapping):
                    raise ValueError(f"a JSON {type(event).__name__}, not an object")
                fields = cast("Mapping[str, object]", event)
                raw = read(fields, self._keys)
            except (ValueError, RecursionError) as error:
                if report:
                    self._report(number, _reason(error))
                continue
            published_ns = published_at_ns(fields, at_ns if self.in_order else 0)
            if published_ns is None and raw.timed:
                published_ns = raw.at_ns
            made_ns = _at_ns_of_id(raw.event_id) if published_ns is None else None
            # milliseconds only: in an ordered stream the line order is finer
            if made_ns is not None:
                published_ns = max(made_ns, at_ns) if self.in_order else made_ns
            at_ns = published_ns or at_ns
            self._first_at_ns = self._first_at_ns or at_ns
            yield (
                _Key(at_ns, raw.event_id if _ORDERED_ID.fullmatch(raw.event_id) else "", number),
                line,
            )

    def _report(self, number: int, reason: str) -> None:
        broken = BrokenLine(str(self._path), number, reason)
        self.broken += 1
        self.first_broken = self.first_broken or broken
        if self._on_broken is not None:
            self._on_broken(broken)


def _at_ns_of_id(event_id: str) -> int | None:
    """Return the creation time of a UUIDv7, with millisecond resolution."""
    return (
        int(event_id[:8] + event_id[9:13], 16) * 1_000_000 if _UUID7.fullmatch(event_id) else None
    )


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _sorted(
    lines: Iterator[tuple[_Key, bytes]], stack: ExitStack, scratch: Path | None
) -> Iterator[tuple[_Key, bytes]]:
    """External merge sort: sorted chunks in temporary files, merged lazily."""
    pieces: list[Iterator[tuple[_Key, bytes]]] = []
    chunk: list[tuple[_Key, bytes]] = []
    size = 0
    for item in lines:
        chunk.append(item)
        size += len(item[1]) + 200
        if size >= SORT_CHUNK_BYTES:
            pieces.append(_spilled(sorted(chunk), stack, scratch))
            chunk, size = [], 0
    chunk.sort()
    if not pieces:
        return iter(chunk)
    return heapq.merge(*pieces, chunk)


def _spilled(
    chunk: list[tuple[_Key, bytes]], stack: ExitStack, scratch: Path | None
) -> Iterator[tuple[_Key, bytes]]:
    file = stack.enter_context(tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115
    for key, line in chunk:
        file.write(
            b"%d %s %d " % (key.at_ns, key.event_id.encode() or b"-", key.number)
            + line.rstrip(b"\n")
            + b"\n"
        )
    file.seek(0)
    return _spill_lines(cast("IO[bytes]", file))


def _spill_lines(file: IO[bytes]) -> Iterator[tuple[_Key, bytes]]:
    for row in file:
        at_ns, event_id, number, line = row.split(b" ", 3)
        yield _Key(int(at_ns), "" if event_id == b"-" else event_id.decode(), int(number)), line
