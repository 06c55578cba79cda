"""TaskIQ: a task sent inside a span becomes a child span in the worker; any other task becomes a run of its own.

Needs the extra ``taskiq``. Instrument the broker once, where it is created, in producers and workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from spanbus._runtime import instrument as instrument_broker
from spanbus.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from spanbus import Handle

__all__ = ["instrument"]


def instrument(broker: Any) -> Handle:
    """Add trace context and time to the tasks of ``broker``, and make a span of each execution.

    ``spanbus.instrument(broker)`` does the same. Raises :class:`~spanbus.errors.InputError` for any other object.
    """
    try:
        import taskiq as library
    except ImportError as error:
        raise MissingExtra("taskiq", error.name) from error
    if not isinstance(broker, cast("Any", library).AsyncBroker):
        raise InputError(f"instrument takes a broker of taskiq, not {type(broker).__name__}")
    return instrument_broker(broker)
