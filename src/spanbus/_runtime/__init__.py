"""The runtime of a program: opened once, attached to buses, closed within the exit limit.

``open_runtime`` creates a :class:`Runtime`. Without one, ``instrument`` opens the process's default runtime, which is closed at
exit. Providers of the application are used and never replaced. They are looked up when the first event arrives, so that the
application may set them before or after it instruments a bus.
"""

from spanbus._runtime.one_line import (
    current_runtime,
    flush,
    instrument,
    instrument_class,
    open_runtime,
    open_runtime_sync,
)
from spanbus._runtime.runtime import Lifetime, Runtime
from spanbus._settings import STORE_NAME

__all__ = [
    "STORE_NAME",
    "Lifetime",
    "Runtime",
    "current_runtime",
    "flush",
    "instrument",
    "instrument_class",
    "open_runtime",
    "open_runtime_sync",
]
