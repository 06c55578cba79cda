"""Dramatiq: a message sent inside a span becomes a child span in the worker; any other message becomes a run of its own.

Needs the extra ``dramatiq``. Instrument the broker once, where it is created, in producers and workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spanbus._runtime import instrument as instrument_broker
from spanbus.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from spanbus import Handle

__all__ = ["instrument"]


def instrument(broker: Any) -> Handle:
    """Add trace context and time to the messages of ``broker``, and make a span of each execution.

    ``spanbus.instrument(broker)`` does the same. Raises :class:`~spanbus.errors.InputError` for any other object.
    """
    try:
        import dramatiq as library
    except ImportError as error:
        raise MissingExtra("dramatiq", error.name) from error
    if not isinstance(broker, cast("Any", library).Broker):
        raise InputError(f"instrument takes a broker of dramatiq, not {type(broker).__name__}")
    return instrument_broker(broker)
