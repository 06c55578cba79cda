"""The two destinations of records: OTLP endpoints, and a callable that stores locally.

Both join the records of the spool into one request with ``join``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from spanbus._delivery.endpoints import configured, endpoints
from spanbus._delivery.fork_guard import fork_guard
from spanbus._delivery.outcomes import Delivered, Outcome, Retry, Unwanted
from spanbus._loggers import Logger
from spanbus._otlp import encode
from spanbus._otlp.signals import OTLP_SIGNALS, Signal
from spanbus.errors import SettingsError, SpanbusError

if TYPE_CHECKING:
    from spanbus._delivery.spool import Stored
    from spanbus._delivery.transport import Transport

logger = Logger(__name__)

Join = Callable[[Signal, "Sequence[Stored]"], bytes]
"""Joins records of one signal into the bytes of an OTLP export request."""

Keep = Callable[[str, bytes], None]
"""Takes a signal and an OTLP export request in protobuf bytes; raises on failure."""

REMOTE: Final = "remote"
LOCAL: Final = "local"

_ATTEMPTS_AT_ERRORS = 5


class OtlpDestination:
    """Destination at the endpoints in ``OTEL_EXPORTER_OTLP_*``; connects lazily.

    A signal is not sent if ``OTEL_<SIGNAL>_EXPORTER`` is ``none``, or if only other signals have an endpoint.
    """

    def __init__(
        self, env: Mapping[str, str], join: Join = encode.join, name: str = REMOTE
    ) -> None:
        self.name = name
        self._env = env
        self._join = join
        self._transports: dict[Signal, tuple[Transport, float]] = {}

    @property
    def shown(self) -> str:
        for signal in OTLP_SIGNALS:
            if self._wants(signal) is None:
                try:
                    url = endpoints(self._env, signal).url
                except SettingsError:
                    break
                parts = urlsplit(url)
                return f"{parts.scheme}://{parts.netloc}" if parts.netloc else url
        return "the OTLP endpoint"

    def warm_up(self) -> None:
        for signal in OTLP_SIGNALS:
            if self._wants(signal) is None:
                self._transport(signal)[0].warm_up()

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        return self.send_body(signal, b"", timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        unwanted = self._wants(signal)
        if unwanted is not None:
            return Unwanted(unwanted)
        return self.send_body(signal, self._join(signal, records), timeout_s)

    def send_body(self, signal: Signal, body: bytes, timeout_s: float) -> Outcome:
        """Send one OTLP export request."""
        unwanted = self._wants(signal)
        if unwanted is not None:
            return Unwanted(unwanted)
        try:
            transport, limit_s = self._transport(signal)
            return transport.send(body, min(limit_s, timeout_s))
        except SettingsError as error:  # records wait until it is corrected
            return Retry(str(error))

    def interrupt(self) -> None:
        for transport, _ in list(self._transports.values()):
            transport.interrupt()

    def close(self) -> None:
        for transport, _ in list(self._transports.values()):
            transport.close()

    def _wants(self, signal: Signal) -> str | None:
        """None if the signal is sent, else the reason why not."""
        if switched_off(self._env, signal):
            return "switched_off"
        return (
            "no_endpoint" if not configured(self._env, signal) and configured(self._env) else None
        )

    def _transport(self, signal: Signal) -> tuple[Transport, float]:
        if signal not in self._transports:
            self._transports[signal] = self._connect(signal)
        return self._transports[signal]

    def _connect(self, signal: Signal) -> tuple[Transport, float]:
        endpoint = endpoints(self._env, signal)
        if endpoint.protocol == "grpc":
            try:
                from spanbus._delivery.grpc_transport import GrpcTransport
            except ImportError as error:
                raise SettingsError(
                    f"OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs grpcio ({error}); install it, or set http/protobuf"
                ) from error
            return GrpcTransport(endpoint, signal), endpoint.timeout_s
        from spanbus._delivery.transport import HttpTransport

        return HttpTransport(endpoint, self._env), endpoint.timeout_s


def apart(env: Mapping[str, str]) -> list[Signal]:
    """Signals that go to another server than traces; each gets its own spool, so that one outage does not block the others."""
    found: list[Signal] = []
    servers: dict[Signal, str] = {}
    for signal in OTLP_SIGNALS:
        if switched_off(env, signal) or (configured(env) and not configured(env, signal)):
            continue
        try:
            endpoint = endpoints(env, signal)
        except SettingsError:
            return []
        servers[signal] = f"{endpoint.protocol} {urlsplit(endpoint.url).netloc or endpoint.url}"
        if servers[signal] != next(iter(servers.values())):
            found.append(signal)
    return found


def switched_off(env: Mapping[str, str], signal: Signal) -> bool:
    """Whether ``OTEL_<SIGNAL>_EXPORTER`` excludes OTLP: ``none``, or ``console`` alone."""
    wanted = exporters(env, signal)
    return bool(wanted) and "otlp" not in wanted


def exporters(env: Mapping[str, str], signal: Signal) -> frozenset[str]:
    """Known exporter names in ``OTEL_<SIGNAL>_EXPORTER``: ``otlp``, ``console``, ``none``."""
    words = env.get(f"OTEL_{signal.upper()}_EXPORTER", "").lower().split(",")
    return frozenset(word.strip() for word in words) & {"otlp", "console", "none"}


def without(env: Mapping[str, str], signals: Sequence[Signal]) -> Mapping[str, str]:
    """The environment with these signals switched off."""
    return {**env, **{f"OTEL_{signal.upper()}_EXPORTER": "none" for signal in signals}}


class LocalDestination:
    """Destination that passes requests to a callable in this process, such as the local store's."""

    def __init__(
        self,
        keep: Keep,
        join: Join = encode.join,
        shown: str = "the local store",
        name: str = LOCAL,
    ) -> None:
        self.name = name
        self.shown = shown
        self._keep = keep
        self._opened = False
        self._join = join

    def warm_up(self) -> None:
        """The callable is ready."""

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        del signal, timeout_s
        return Delivered()

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        del timeout_s
        body = self._join(signal, records)
        if not body:
            return Delivered()
        try:
            if self._opened:
                self._keep(str(signal), body)
            else:
                with fork_guard():  # the first time it imports the store
                    self._keep(str(signal), body)
                self._opened = True
        except (SpanbusError, OSError) as error:
            return Retry(str(error), heard=True)
        except (
            Exception
        ) as error:  # nothing is raised into the program; the content may be at fault
            logger.debug("the local store failed", exc_info=error)
            return Retry(
                f"{type(error).__name__}: {error}",
                attempts=_ATTEMPTS_AT_ERRORS,
                body=body,
                heard=True,
            )
        return Delivered()

    def interrupt(self) -> None:
        """Does nothing: a write under way cannot be aborted."""

    def close(self) -> None:
        """The callable is closed by its owner."""
