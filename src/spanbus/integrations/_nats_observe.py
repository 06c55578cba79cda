"""Observe a stream inside an asynchronous program: :func:`observe`. The observer runs in a separate thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import anyio
import anyio.to_thread

from spanbus._runtime import Runtime, current_runtime
from spanbus.errors import BackendError, InputError
from spanbus.integrations._nats_partitions import PARTITIONS

if TYPE_CHECKING:
    from spanbus.integrations.nats_observer import Observed, Observer

logger = logging.getLogger("spanbus")


def observe(
    servers: str | Sequence[str],
    *,
    runtime: Runtime | None = None,
    group: str = "main",
    stream: str = "SPANBUS",
    credentials: str | Path | None = None,
    partitions: Iterable[int] = range(PARTITIONS),
    take: bool = False,
    durable: Literal["delivered", "spool"] = "delivered",
    begin: Literal["start", "now"] = "start",
) -> Observation:
    """Observe the stream inside an ``async with`` block, as ``spanbus observe`` does.

    ``runtime`` (default: the one opened last) makes the telemetry; close it after the block. The other arguments are those
    of the command line. Raises :class:`~spanbus.errors.InputError` for invalid arguments.
    """
    from spanbus.integrations.nats_observer import Observer

    found = runtime if runtime is not None else current_runtime()
    settings = found.settings
    if settings.delivery != "spool" and durable == "delivered":
        raise InputError(
            'observe: SPANBUS_DELIVERY=sdk does not say what was delivered; leave it out, or give durable="spool"'
        )
    return Observation(
        Observer(
            servers,
            found,
            group=group,
            stream=stream,
            credentials=credentials,
            partitions=partitions,
            take=take,
            durable=durable,
            begin=begin,
            settle_s=settings.observe_settle_s,
            lost_after_s=settings.observe_lost_after_s,
            say=lambda line: logger.warning("%s", line),
        )
    )


class Observation:
    """An asynchronous context manager for asyncio and trio. It can be entered once.

    Entering raises :class:`~spanbus.errors.BackendError` if NATS does not answer. Leaving writes the checkpoints, even when
    cancelled, which can take as long as a NATS request plus ten seconds for the collector. It raises the same error if the
    observer has ended by itself, for example because another one took all its partitions.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._stop, self._entered = threading.Event(), threading.Event()
        self._error: BackendError | None = None
        self._thread = threading.Thread(target=self._work, name="spanbus-observe", daemon=True)

    def state(self) -> Observed:
        """Return progress, counts and number of open runs."""
        return self._observer.state()

    @property
    def observing(self) -> bool:
        """Whether the observer is running: False before and after the block, and if the observer ended by itself."""
        return self._entered.is_set() and self._thread.is_alive() and self._error is None

    async def __aenter__(self) -> Self:
        try:
            await anyio.to_thread.run_sync(self._enter, abandon_on_cancel=True)
        except BaseException:
            self._stop.set()
            raise
        return self

    async def __aexit__(self, kind: object, *error: object) -> None:
        self._stop.set()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._thread.join)
        if kind is None and self._error is not None:
            raise self._error

    def _enter(self) -> None:
        self._thread.start()
        self._entered.wait()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with self._observer:
                self._entered.set()
                self._observer.follow(self._stop)
        except BackendError as error:
            self._error = error
            if self._entered.is_set():
                logger.warning("%s", error)
        except Exception as error:  # must not end the program's thread with a traceback
            logger.exception("observing ended")
            self._error = BackendError(f"{self._observer.shown}: observing ended: {error!r:.200}")
        finally:
            self._entered.set()
