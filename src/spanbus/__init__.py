"""The OpenTelemetry adapter for event-driven workflows.

One line on a workflow's event bus, ``spanbus.instrument(bus)``, and each phase is a span, each bus event a span event,
with duration histograms and failure counters, exported via OTLP. Names are imported when they are first used; the list
of them is ``__init__.pyi``, which type checkers read too.
"""

from __future__ import annotations

_modules: dict[str, str] = {}
"""The module of each public name."""
_rooms = ("dialects", "errors", "logging", "testing")


def _listed() -> dict[str, str]:
    if not _modules:
        with open(f"{__file__.rpartition('.')[0]}.pyi", encoding="utf-8") as stub:
            words = [line.split() for line in stub if line.startswith("from spanbus.")]
        _modules.update({name: module for _, module, _, _, _, name in words})
    return _modules


def __getattr__(name: str) -> object:
    if name == "__all__":
        return sorted(_listed())
    if name == "pytest_plugins":  # asked for by `pytest -p spanbus` alone
        return ["spanbus.adapters.pytest"]
    from importlib import import_module

    if name in _rooms:
        return import_module(f"spanbus.{name}")
    if (name.startswith("_") and name != "__version__") or name not in _listed():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_modules[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_listed())
