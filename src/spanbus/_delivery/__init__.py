"""Deliver records: spool them on disk, send them, keep them until acknowledged; or use the SDK's exporters."""

from typing import Final

FOLDER: Final = "spool"
"""Folder of the spool in a state directory."""
SEGMENTS: Final = ".seg"
JOURNALS: Final = ".open"
