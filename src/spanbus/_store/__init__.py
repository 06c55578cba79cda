"""The local SQLite store of traces, metrics and logs."""

from typing import Final

LOGS: Final = "logs"
"""The folder of kept output, in a state directory."""
