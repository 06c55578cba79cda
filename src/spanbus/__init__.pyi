# The public names and where they live: the one list, read by type checkers and by __init__.py.

from spanbus import dialects as dialects
from spanbus import errors as errors
from spanbus import logging as logging
from spanbus import testing as testing
from spanbus._attaching.handle import Handle as Handle
from spanbus._runtime import Runtime as Runtime
from spanbus._runtime import flush as flush
from spanbus._runtime import instrument as instrument
from spanbus._runtime import instrument_class as instrument_class
from spanbus._runtime import open_runtime as open_runtime
from spanbus._runtime import open_runtime_sync as open_runtime_sync
from spanbus._version import __version__ as __version__
from spanbus._workflow.actions import run_code_cleaning as run_code_cleaning
from spanbus._workflow.actions import run_comprehensive_hooks as run_comprehensive_hooks
from spanbus._workflow.actions import run_fast_hooks as run_fast_hooks
from spanbus._workflow.actions import run_test_workflow as run_test_workflow
from spanbus._workflow.bus import EventHandlerResult as EventHandlerResult
from spanbus._workflow.bus import WorkflowEventBus as WorkflowEventBus
from spanbus._workflow.current import current_bus as current_bus
from spanbus._workflow.current import use_bus as use_bus
from spanbus._workflow.definition import Command as Command
from spanbus._workflow.definition import Phase as Phase
from spanbus._workflow.definition import Workflow as Workflow
from spanbus._workflow.engine import BasicWorkflowEngine as BasicWorkflowEngine
from spanbus._workflow.engine import PhaseContext as PhaseContext
from spanbus._workflow.engine import RunOptions as RunOptions
from spanbus._workflow.engine import RunResult as RunResult
from spanbus._workflow.events import Event as Event
from spanbus._workflow.events import WorkflowEvent as WorkflowEvent
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

__all__: list[str]  # noqa: PYI035 (the names above)
