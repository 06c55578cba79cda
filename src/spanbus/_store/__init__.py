"""The local SQLite store of traces, metrics and logs."""

from typing import Final

LOGS: Final = "logs"
"""Folder of kept output in a state directory."""
