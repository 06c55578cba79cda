"""TaskIQ: a task sent inside a span is executed below that span; any other task is a run of its own.

Needs the extra ``taskiq``. Instrument the broker once, where it is created, for producers and workers alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spanbus._runtime import instrument as instrument_broker
from spanbus.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from spanbus import Handle

__all__ = ["instrument"]


def instrument(broker: Any) -> Handle:
    """Send trace context and time with each task of this broker, and record each execution as a span.

    The same as ``spanbus.instrument(broker)``. Raises :class:`~spanbus.errors.InputError` if it is not a TaskIQ broker.
    """
    try:
        import taskiq as library
    except ImportError as error:
        raise MissingExtra("taskiq", error.name) from error
    if not isinstance(broker, cast("Any", library).AsyncBroker):
        raise InputError(f"instrument takes a broker of taskiq, not {type(broker).__name__}")
    return instrument_broker(broker)
