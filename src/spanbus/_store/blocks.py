"""Compressed blocks of span bodies: spans that arrive together are similar, and compressed together they take a fifth.

A block has the id of its first span; the span with id ``block + n`` is its nth. Uncompressed, it holds the length of each body
(four bytes each), then the bodies. A span written by an older version has its body in its own row.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from spanbus._named_tuple import NamedTuple

_BLOCK_BYTES: Final = 32 * 1024
"""Size of an uncompressed block, which its last span may exceed."""
_LEVEL: Final = 1
_MOST_BYTES: Final = 64 * 2**20
_KEPT: Final = 32
"""Unpacked blocks that one query caches; queries read spans roughly in the order of arrival."""
_KEPT_BYTES: Final = 4 * 2**20
"""Size limit of this cache, which one block may exceed."""

# Preset dictionary for zlib: frequent keys and values, the most frequent last. It is part of the format, because blocks can be
# unpacked only with the dictionary that they were packed with; it is never changed.
_WORDS: Final = b"""
http.request.method http.response.status_code url.full url.path server.address server.port network.protocol.version
user_agent.original code.function.name code.file.path thread.id thread.name db.system.name db.query.text messaging.system
messaging.operation.name messaging.destination.name exception.type exception.message exception.stacktrace
vcs.ref.head.revision vcs.ref.head.name cicd.pipeline.run.url.full cicd.pipeline.task.run.id cicd.pipeline.action.name
spanbus.queue.wait_s spanbus.queue.name spanbus.worker spanbus.task.id spanbus.skip.reason spanbus.hook.cached
spanbus.strategy.name spanbus.output.tail spanbus.events.dropped spanbus.events.count. error.type cancellation timeout error
failure skip workflow.started workflow.failed workflow.completed workflow.phase.started workflow.phase.failed
workflow.phase.completed hooks.strategy.started hooks.strategy.completed hooks.execution.started hooks.execution.failed
hooks.execution.completed spanbus.payload.type spanbus.payload.message spanbus.payload.reason spanbus.payload.workflow
spanbus.payload.error spanbus.payload.attempt spanbus.payload.hook spanbus.payload.stage spanbus.payload.strategy
spanbus.payload.executable spanbus.payload.command spanbus.payload.exit_code spanbus.payload.status passed
spanbus.payload.success spanbus.payload.duration spanbus.payload.step_id spanbus.payload.timestamp spanbus.event.source
spanbus.workflow spanbus.event.id process.executable.name python process.command_args process.exit.code spanbus.hook.name
spanbus.hook.result spanbus.phase.attempt spanbus.phase.attempts cicd.pipeline.task.type cicd.pipeline.result
cicd.pipeline.task.run.result success cicd.pipeline.task.name spanbus.events.total hook run spanbus.level phase
cicd.pipeline.run.id cicd.pipeline.name
"""
DICTIONARY: Final = b"".join(b"\n%c%b\x12" % (len(word), word) for word in _WORDS.split())
"""The words as encoded in a span: tag and length before the word, the tag of a value behind it."""


class Block(NamedTuple):
    """A stored block: number of spans, and their compressed bodies."""

    spans: int
    body: bytes


def next_id(connection: sqlite3.Connection) -> int:
    """Id of the next span, behind every span and block; call it within a transaction."""
    (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM spans").fetchone()
    block = connection.execute("SELECT id + spans FROM blocks ORDER BY id DESC LIMIT 1").fetchone()
    return max(last + 1, block[0] if block is not None else 0)


def packed(bodies: Iterable[bytes]) -> list[Block]:
    """Pack bodies into blocks, in order."""
    made: list[Block] = []
    waiting: list[bytes] = []
    size = 0
    for body in bodies:
        waiting.append(body)
        size += len(body)
        if size >= _BLOCK_BYTES:
            made.append(_packed(waiting))
            waiting, size = [], 0
    if waiting:
        made.append(_packed(waiting))
    return made


def _packed(bodies: Sequence[bytes]) -> Block:
    packer = zlib.compressobj(_LEVEL, zdict=DICTIONARY)
    lengths = struct.pack(f"<{len(bodies)}I", *map(len, bodies))
    return Block(len(bodies), packer.compress(lengths + b"".join(bodies)) + packer.flush())


def write(
    connection: sqlite3.Connection, first_id: int, blocks: Iterable[Block], *, are_new: bool
) -> None:
    """Write blocks within the caller's transaction, after their spans; ``are_new`` if all these spans were new."""
    for block in blocks:
        if are_new or _has_spans(connection, first_id, first_id + block.spans):
            connection.execute(
                "INSERT INTO blocks (id, spans, body) VALUES (?,?,?)", (first_id, *block)
            )
        first_id += block.spans


def _has_spans(connection: sqlite3.Connection, first_id: int, end: int) -> bool:
    found = connection.execute(
        "SELECT 1 FROM spans WHERE id >= ? AND id < ? LIMIT 1", (first_id, end)
    )
    return found.fetchone() is not None


def forget(connection: sqlite3.Connection, ids: Collection[int]) -> None:
    """Delete the blocks without spans, after the spans with these ``ids`` were deleted."""
    end = 0
    for row_id in sorted(ids):
        if row_id < end:
            continue
        block = connection.execute(
            "SELECT id, spans FROM blocks WHERE id <= ? ORDER BY id DESC LIMIT 1", (row_id,)
        ).fetchone()
        if block is None:
            continue
        first_id, end = block[0], block[0] + block[1]
        if row_id < end and not _has_spans(connection, first_id, end):
            connection.execute("DELETE FROM blocks WHERE id = ?", (first_id,))


class Bodies:
    """Bodies of stored spans for one query, with a cache of unpacked blocks."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._blocks: deque[tuple[int, Sequence[bytes], int]] = deque()
        self._size = 0

    def of(self, row_id: int, body: bytes) -> bytes:
        """Return the body of a span; ``body`` is the column of its row. Empty for a span that was deleted meanwhile."""
        if body:
            return body
        for first_id, bodies, _ in self._blocks:
            if first_id <= row_id < first_id + len(bodies):
                return bodies[row_id - first_id]
        found = self._connection.execute(
            "SELECT id, spans, body FROM blocks WHERE id <= ? ORDER BY id DESC LIMIT 1", (row_id,)
        ).fetchone()
        if found is None or row_id >= found[0] + found[1]:
            return b""
        first_id, bodies = found[0], unpacked(Block(found[1], found[2]))
        size = sum(map(len, bodies))
        self._blocks.appendleft((first_id, bodies, size))
        self._size += size
        while len(self._blocks) > 1 and (len(self._blocks) > _KEPT or self._size > _KEPT_BYTES):
            self._size -= self._blocks.pop()[2]
        return bodies[row_id - int(first_id)]


def unpacked(block: Block) -> Sequence[bytes]:
    unpacker = zlib.decompressobj(zdict=DICTIONARY)
    try:
        data = unpacker.decompress(block.body, _MOST_BYTES)
        lengths = struct.unpack_from(f"<{block.spans}I", data)
    except (zlib.error, struct.error) as error:
        raise sqlite3.DatabaseError(f"a block of spans is broken: {error}") from None
    bodies: list[bytes] = []
    at = 4 * block.spans
    for length in lengths:
        bodies.append(data[at : at + length])
        at += length
    if at != len(data) or not unpacker.eof:
        raise sqlite3.DatabaseError("a block of spans is broken: it is cut off")
    return bodies
