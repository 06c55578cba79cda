"""An observer for a program's own event loop: :func:`observe`. It reads in a thread of its own."""

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
    """Observe the stream as ``spanbus observe`` does, while an ``async with`` block is entered.

    ``runtime``, by default the one opened last, makes the telemetry; close it after the block. The other arguments are those
    of the command line. Raises :class:`~spanbus.errors.InputError` for what cannot be used.
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
    """An asynchronous context manager, entered once, under asyncio or trio.

    Entering it raises :class:`~spanbus.errors.BackendError` where NATS cannot be asked. Leaving it writes the checkpoints,
    cancelled or not, which may take as long as an answer of NATS and ten seconds for the collector; it raises the same where the
    observer had ended by itself, as when another one took all its partitions.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._stop, self._entered = threading.Event(), threading.Event()
        self._error: BackendError | None = None
        self._thread = threading.Thread(target=self._work, name="spanbus-observe", daemon=True)

    def state(self) -> Observed:
        """Progress, counts and open runs of the observation."""
        return self._observer.state()

    @property
    def observing(self) -> bool:
        """Whether it goes on: False before the block, after it, and where the observer ended by itself."""
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
        except Exception as error:  # a wall: the thread of a program that does other things
            logger.exception("observing ended")
            self._error = BackendError(f"{self._observer.shown}: observing ended: {error!r:.200}")
        finally:
            self._entered.set()
