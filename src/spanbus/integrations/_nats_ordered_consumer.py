"""An ordered JetStream consumer: ephemeral, without acknowledgements, recreated after a gap or a server restart."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from spanbus.errors import BackendError
from spanbus.integrations._nats_client import Client, RequestFailed
from spanbus.integrations._nats_partition_reader import StreamMessage

_MOST: Final = 1_000
_INACTIVE_NS: Final = 30 * 1_000_000_000
_SUBJECTS_MOST: Final = 256

Run = Callable[[Any], Any]


class OrderedConsumer:
    """Reads messages of some subjects from sequence number ``first`` on, each once."""

    def __init__(
        self, client: Client, run: Run, stream: str, subjects: Sequence[str], first: int
    ) -> None:
        self._client, self._run, self._stream = client, run, stream
        self._subjects = list(subjects)
        self._next, self._name, self._given = first, "", 0

    def read(self) -> list[StreamMessage]:
        """Return the next messages, up to a thousand; empty at the end of the stream.

        Raises :class:`~spanbus.errors.BackendError` if NATS does not answer.
        """
        try:
            return self._read()
        except (BackendError, RequestFailed):
            if not self._name:
                raise
            self._name = ""  # the consumer may be gone, as after a restart of the server
            return self._read()

    def _read(self) -> list[StreamMessage]:
        if not self._name:
            self._make()
        found: list[StreamMessage] = []
        for message in self._run(self._client.pull(self._stream, self._name, _MOST)):
            parts = message.reply.split(".")
            if len(parts) > 9:  # with a domain and an account
                parts = [*parts[:2], *parts[4:]]
            if parts[3] != self._name:
                continue  # late message of the previous consumer
            self._given += 1
            if int(parts[6]) != self._given:  # a gap: recreate the consumer from the last message
                self._name = ""
                break
            found.append(_read(message, int(parts[5]), int(parts[7])))
            self._next = found[-1].sequence + 1
        if not found and not self._name:
            return self._read()
        return found

    def _make(self) -> None:
        name = f"spanbus-{os.urandom(6).hex()}"
        config: dict[str, object] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_NS,
            "filter_subjects": self._subjects,
        }
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        answer = self._run(
            self._client.ask(f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}", request)
        )
        error = answer.get("error")
        if error is not None:
            raise BackendError(f"stream {self._stream}: {error.get('description')}")
        self._name, self._given = name, 0

    def close(self) -> None:
        """Delete the consumer on the server, which otherwise expires after 30 s of inactivity."""
        name, self._name = self._name, ""
        if name:
            try:
                self._run(self._client.ask(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}"))
            except (BackendError, RequestFailed):
                pass


def subjects_of(buckets: Sequence[tuple[int, int]], partitions: Sequence[str]) -> list[str]:
    """Return the subjects of these (partition, bucket) pairs, or those of whole partitions if there are too many."""
    if len(buckets) > _SUBJECTS_MOST:
        return list(partitions)
    return [f"spanbus.v1.p.{partition}.{bucket}" for partition, bucket in sorted(buckets)]


def _read(message: Any, sequence: int, stamp_ns: int) -> StreamMessage:
    partition, bucket = message.subject.split(".")[3:5]
    headers: Any = message.headers or {}
    sent = str(headers.get("Spanbus-Sent", ""))
    return StreamMessage(
        sequence,
        stamp_ns,
        bytes(message.data),
        int(partition),
        int(bucket),
        str(headers.get("Spanbus-Publisher", "")),
        int(sent) if sent.isdecimal() else 0,
    )
