"""The events of a runtime's own bus on their way to NATS, where the settings ask for that."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._loggers import Logger
from spanbus._settings import Settings
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus

logger = Logger("spanbus")


def carried(bus: WorkflowEventBus, settings: Settings, *, command_line: bool) -> Any:
    """The carrier of ``bus``, None where it is not carried.

    A service goes on without, and says so; for a command it is an error. Where telemetry shall be made elsewhere and the
    events go nowhere it is made here.
    """
    if settings.sdk_disabled:
        return None
    try:
        if settings.nats_url:
            return import_module("spanbus.integrations.nats").outbox_of(settings).carrying(bus)
        if settings.telemetry == "elsewhere":
            raise InputError(
                "SPANBUS_TELEMETRY=elsewhere needs SPANBUS_NATS_URL, else nobody gets the events"
            )
    except InputError as error:
        if command_line:
            raise
        logger.warning("events are not carried to NATS: %s", error)
    return None
