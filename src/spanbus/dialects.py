"""Dialects: rules for reading the events of a foreign bus.

:func:`load` takes the same values as ``spanbus.instrument(dialect=...)``: the name of a built-in dialect (``spanbus``,
``crackerjack``, ``generic``), the path of a TOML file, a mapping of the same form, or a :class:`Dialect`.
``docs/dialects.md`` explains every key; ``spanbus dialect suggest`` writes a first file from a recorded stream.
"""

from __future__ import annotations

from spanbus._reading.dialect import Dialect
from spanbus._reading.dialect_file import BUILT_IN, DialectSource, load, parse

__all__ = ["BUILT_IN", "Dialect", "DialectSource", "load", "parse"]
