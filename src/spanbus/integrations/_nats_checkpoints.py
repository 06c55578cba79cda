"""Checkpoints of observers: one key for each partition, written with compare-and-set on its revision."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from spanbus._named_tuple import NamedTuple
from spanbus.errors import BackendError
from spanbus.integrations._nats_client import Client, unix_ns
from spanbus.integrations.nats_stream import CHECKPOINTS, STREAM

_VERSION: Final = 1
_NOT_FOUND: Final = 10_037
_REFUSED: Final = 10_071

Ask = Callable[[Any], Any]
"""Run a NATS request and return its reply. Raises :class:`~spanbus.errors.BackendError`."""


class Checkpoint(NamedTuple):
    """Progress in a partition of the stream, from which another observer can continue.

    ``stream`` is the stream's creation time, ``high`` the last processed message and ``stamp_ns`` its server timestamp.
    ``open`` maps each open run to its bucket and first message. ``by`` is the holder; ``left`` is set if it shut down
    in order. ``sampler`` is the holder's, for ``spanbus doctor``.
    """

    stream: str
    high: int
    stamp_ns: int
    open: Mapping[str, tuple[int, int]]
    elsewhere: tuple[str, ...]
    ended: tuple[str, ...]
    by: str
    left: bool = False
    sampler: str = ""

    def encode(self) -> bytes:
        document = {"v": _VERSION, **self._asdict()}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint:
        """Decode a checkpoint. Raises ValueError, KeyError or TypeError if it is malformed."""
        found: Any = json.loads(data)
        if found["v"] != _VERSION:
            raise ValueError(f"version {found['v']}")
        return cls(
            str(found["stream"]),
            int(found["high"]),
            int(found["stamp_ns"]),
            {str(run): (int(bucket), int(first)) for run, (bucket, first) in found["open"].items()},
            tuple(map(str, found["elsewhere"])),
            tuple(map(str, found["ended"])),
            str(found["by"]),
            bool(found["left"]),
            str(found.get("sampler", "")),
        )


class Found(NamedTuple):
    """A stored checkpoint, with its revision and the server's timestamp."""

    checkpoint: Checkpoint
    revision: int
    stamp_ns: int


def subject_of(group: str, stream: str, partition: int | str) -> str:
    """Return the subject of a checkpoint; ``*`` selects all partitions."""
    whose = group if stream == STREAM else f"{group}.{stream}"
    return f"$KV.{CHECKPOINTS}.{whose}.state.{partition}"


class Checkpoints:
    """Checkpoints of one group of observers."""

    def __init__(self, client: Client, ask: Ask, where: str, group: str, stream: str) -> None:
        self._client, self._ask, self._where = client, ask, where
        self._group, self._stream = group, stream

    def read(self, partition: int) -> Found | None:
        """Return the last checkpoint of a partition from the bucket's leader, or None."""
        subject = subject_of(self._group, self._stream, partition)
        answer = self._ask(
            self._client.ask(f"$JS.API.STREAM.MSG.GET.KV_{CHECKPOINTS}", {"last_by_subj": subject})
        )
        error = answer.get("error")
        if error is not None:
            if error.get("err_code") == _NOT_FOUND:
                return None
            raise BackendError(
                f"{self._where}: checkpoints: {error.get('description')}; `spanbus nats setup` makes their bucket"
            )
        message = answer["message"]
        try:
            checkpoint = Checkpoint.decode(b64decode(message.get("data", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(
                f"{self._where}: the checkpoint {subject} cannot be read ({error!r:.100}); remove it to begin anew"
            ) from error
        return Found(checkpoint, int(message["seq"]), unix_ns(str(message["time"])))

    def write(self, documents: Mapping[int, tuple[bytes, int]]) -> dict[int, int | None]:
        """Write these checkpoints, each on top of its given revision. Returns the new revisions, None where it was stale."""
        if not documents:
            return {}
        messages = [
            (
                subject_of(self._group, self._stream, partition),
                body,
                {"Nats-Expected-Last-Subject-Sequence": str(revision)},
            )
            for partition, (body, revision) in documents.items()
        ]
        answers = cast("list[Mapping[str, Any]]", self._ask(self._client.publish_all(messages)))
        found: dict[int, int | None] = {}
        for partition, answer in zip(documents, answers, strict=True):
            error = answer.get("error")
            if error is not None and error.get("err_code") != _REFUSED:
                raise BackendError(f"{self._where}: checkpoint: {error.get('description')}")
            found[partition] = int(answer["seq"]) if error is None else None
        return found
