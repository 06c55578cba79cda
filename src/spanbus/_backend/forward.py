"""Forwarding of received telemetry to a collector, through a spool of its own.

Requests wait in ``forward`` beside the store until the collector has acknowledged them, even if it is unreachable for days and
the backend is stopped meanwhile. They are not decoded: the concatenated bytes of several protobuf requests are one request with
the content of all (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from spanbus._delivery.dead_letters import REFUSED, DeadLetters
from spanbus._delivery.destinations import REMOTE, OtlpDestination
from spanbus._delivery.liveness import Liveness
from spanbus._delivery.sender import Sender, SenderOptions, to_stderr
from spanbus._delivery.spool import Spool, Stored
from spanbus._delivery.spool_files import FOLDER, SpoolUnavailable
from spanbus._otlp.signals import Signal
from spanbus.errors import BackendError, InputError

if TYPE_CHECKING:  # the web is an extra
    from google.protobuf.message import Message

    from spanbus._backend.receiver import Sink

FORWARD: Final = "forward"
_EXIT_S = 2.0


class Forwarder:
    """Sink that stores and forwards requests. Use it as a context manager; requests not sent within 2 s at the end wait for the
    next start.

    ``env`` holds ``OTEL_EXPORTER_OTLP_HEADERS``, ``…_CERTIFICATE`` and the like; the endpoint is ``url``. At the quota of the
    spool requests are not forwarded, which is reported; they are stored nevertheless.
    """

    def __init__(
        self,
        store: Sink,
        url: str,
        state_dir: Path,
        env: Mapping[str, str],
        *,
        quota_bytes: int = 256 * 2**20,
        tell: Callable[[str], None] = to_stderr,
    ) -> None:
        _check_url(url)
        self._store = store
        folder = state_dir / FORWARD
        self._spool = Spool(folder, quota_bytes=quota_bytes)
        named = {
            name: value
            for name, value in env.items()
            if not name.endswith("_ENDPOINT")
            and not (name.startswith("OTEL_") and name.endswith("_EXPORTER"))
        }
        destination = OtlpDestination({**named, "OTEL_EXPORTER_OTLP_ENDPOINT": url}, _concatenate)
        self._sender = Sender(
            self._spool,
            [destination],
            SenderOptions(
                str(folder / FOLDER),
                "the next `spanbus up --forward` sends them",
                life_signs=Liveness(folder / FOLDER),
                tell=tell,
            ),
            refused=DeadLetters(folder / REFUSED),
            prepare=self._adopt,
        )

    def __enter__(self) -> Self:
        try:
            self._spool.open()
        except SpoolUnavailable as error:
            raise BackendError(f"nothing can be passed on: {error}") from None
        self._sender.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._sender.stop(_EXIT_S)
        self._spool.close()

    def ingest_traces(self, body: bytes) -> None:
        self._store.ingest_traces(body)
        self._forward(Signal.TRACES, body)

    def ingest_metrics(self, body: bytes) -> object:
        left_out = self._store.ingest_metrics(body)
        self._forward(Signal.METRICS, body)
        return left_out

    def ingest_logs(self, body: bytes) -> None:
        self._store.ingest_logs(body)
        self._forward(Signal.LOGS, body)

    def ingest_decoded(self, signal: str, body: bytes, request: Message) -> object:
        """Store a decoded request, and forward its bytes."""
        from spanbus._backend.receiver import DecodedSink

        if isinstance(self._store, DecodedSink):
            left_out = self._store.ingest_decoded(signal, body, request)
            self._forward(Signal(signal), body)
            return left_out
        return getattr(self, f"ingest_{signal}")(body)

    def waiting(self) -> int:
        """Number of requests that the collector has not acknowledged."""
        return self._spool.pending(REMOTE)

    def flush(self, timeout_s: float) -> bool:
        """Send now; True when nothing waits."""
        return self._sender.flush(timeout_s)

    def _forward(self, signal: Signal, body: bytes) -> None:
        self._spool.put(signal, self._spool.group(b""), body)
        self._sender.wake()

    def _adopt(self) -> None:
        self._spool.adopt()
        self._spool.sync()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InputError(f"--forward: {url!r} is no address such as http://collector:4318")


def _concatenate(signal: Signal, records: Sequence[Stored]) -> bytes:
    del signal
    return b"".join(record.data for record in records)
