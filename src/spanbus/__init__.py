"""The OpenTelemetry adapter for event-driven workflows.

One line on a workflow's event bus, ``spanbus.instrument(bus)``, and each phase is a span, each bus event a span event,
with duration histograms and failure counters, exported via OTLP. Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spanbus.version import __version__

if TYPE_CHECKING:
    from spanbus.errors import BackendError as BackendError
    from spanbus.errors import BusError as BusError
    from spanbus.errors import DefinitionError as DefinitionError
    from spanbus.errors import DeliveryError as DeliveryError
    from spanbus.errors import DialectError as DialectError
    from spanbus.errors import InputError as InputError
    from spanbus.errors import PhaseError as PhaseError
    from spanbus.errors import PhaseTimeout as PhaseTimeout
    from spanbus.errors import PhaseUnsuccessful as PhaseUnsuccessful
    from spanbus.errors import RunNotFound as RunNotFound
    from spanbus.errors import SettingsError as SettingsError
    from spanbus.errors import SpanbusError as SpanbusError
    from spanbus.errors import StoreError as StoreError
    from spanbus.errors import StreamError as StreamError
    from spanbus.runtime import flush as flush
    from spanbus.runtime import instrument as instrument
    from spanbus.runtime import instrument_class as instrument_class
    from spanbus.runtime import open_runtime as open_runtime
    from spanbus.runtime import open_runtime_sync as open_runtime_sync
    from spanbus.workflow.actions import run_code_cleaning as run_code_cleaning
    from spanbus.workflow.actions import run_comprehensive_hooks as run_comprehensive_hooks
    from spanbus.workflow.actions import run_fast_hooks as run_fast_hooks
    from spanbus.workflow.actions import run_test_workflow as run_test_workflow
    from spanbus.workflow.bus import EventHandlerResult as EventHandlerResult
    from spanbus.workflow.bus import WorkflowEventBus as WorkflowEventBus
    from spanbus.workflow.current import current_bus as current_bus
    from spanbus.workflow.current import use_bus as use_bus
    from spanbus.workflow.definition import Phase as Phase
    from spanbus.workflow.definition import Workflow as Workflow
    from spanbus.workflow.engine import BasicWorkflowEngine as BasicWorkflowEngine
    from spanbus.workflow.events import Event as Event
    from spanbus.workflow.events import WorkflowEvent as WorkflowEvent

_WHERE = {
    **dict.fromkeys(("instrument", "instrument_class", "open_runtime", "open_runtime_sync", "flush"), "spanbus.runtime"),
    **dict.fromkeys(("WorkflowEvent", "Event"), "spanbus.workflow.events"),
    **dict.fromkeys(("WorkflowEventBus", "EventHandlerResult"), "spanbus.workflow.bus"),
    **dict.fromkeys(("Workflow", "Phase"), "spanbus.workflow.definition"),
    "BasicWorkflowEngine": "spanbus.workflow.engine",
    **dict.fromkeys(("run_fast_hooks", "run_code_cleaning", "run_comprehensive_hooks", "run_test_workflow"), "spanbus.workflow.actions"),
    **dict.fromkeys(("use_bus", "current_bus"), "spanbus.workflow.current"),
    **dict.fromkeys(
        (
            "SpanbusError", "InputError", "DefinitionError", "SettingsError", "StreamError", "DialectError", "PhaseError", "PhaseUnsuccessful",
            "PhaseTimeout", "BusError", "StoreError", "RunNotFound", "DeliveryError", "BackendError",
        ),
        "spanbus.errors",
    ),
}

__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'spanbus' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
