"""The OpenTelemetry adapter for event-driven workflows.

With one line, ``spanbus.instrument(bus)``, each phase of a workflow becomes a span and each bus event a span event, with
duration histograms and failure counters, exported via OTLP. Names are imported lazily; they are listed in ``__init__.pyi``,
which type checkers read too.
"""

from __future__ import annotations

_modules: dict[str, str] = {}
"""The module of each public name."""
_public_modules = ("dialects", "errors", "logging", "testing")


def _public_names() -> dict[str, str]:
    if not _modules:
        with open(f"{__file__.rpartition('.')[0]}.pyi", encoding="utf-8") as stub:
            words = [line.split() for line in stub if line.startswith("from spanbus.")]
        _modules.update({name: module for _, module, _, _, _, name in words})
    return _modules


def __getattr__(name: str) -> object:
    if name == "__all__":
        return sorted(_public_names())
    if name == "pytest_plugins":  # read by `pytest -p spanbus`
        return ["spanbus.adapters.pytest"]
    from importlib import import_module

    if name in _public_modules:
        return import_module(f"spanbus.{name}")
    if (name.startswith("_") and name != "__version__") or name not in _public_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_modules[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_public_names())
