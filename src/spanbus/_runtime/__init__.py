"""The runtime of a program: opened once, attached to buses, closed within the exit limit.

One :class:`Runtime` is one set of these. ``open_runtime`` gives one of your own; ``instrument`` without one opens the
process's default runtime, which is closed at exit. Providers that the application has set are used and never replaced;
they are looked up when the first event arrives, so that it does not matter which line comes first.
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
