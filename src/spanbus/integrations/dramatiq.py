"""Dramatiq: messages that code inside a span sends are executions beneath it, in the worker; the others are runs of their own.

Needs the extra ``dramatiq``. The broker is instrumented once, where it is made, for producers and workers alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spanbus._runtime import instrument as instrument_broker
from spanbus.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from spanbus import Handle

__all__ = ["instrument"]


def instrument(broker: Any) -> Handle:
    """Give this broker's messages their trace context and time, and make a span of each of their executions.

    ``spanbus.instrument(broker)`` is the same. Raises :class:`~spanbus.errors.InputError` for what is no broker.
    """
    try:
        import dramatiq as library
    except ImportError as error:
        raise MissingExtra("dramatiq", error.name) from error
    if not isinstance(broker, cast("Any", library).Broker):
        raise InputError(f"instrument takes a broker of dramatiq, not {type(broker).__name__}")
    return instrument_broker(broker)
