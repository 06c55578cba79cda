"""Carrier of a runtime's own events to NATS, if the settings ask for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbus._loggers import Logger
from spanbus._settings import Settings
from spanbus.errors import InputError

if TYPE_CHECKING:
    from spanbus._workflow.bus import WorkflowEventBus

logger = Logger("spanbus")


def carrier_for(bus: WorkflowEventBus, settings: Settings, *, command_line: bool) -> Any:
    """Return the carrier of ``bus``; None if its events are not carried.

    If the settings cannot be used, a service logs a warning and makes its telemetry here; a command raises
    :class:`~spanbus.errors.InputError`.
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
