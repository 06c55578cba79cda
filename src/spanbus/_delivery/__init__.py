"""Delivery to the collector: spooled on disk, sent, and kept until acknowledged; or by the SDK's own processors."""

from typing import Final

FOLDER: Final = "spool"
"""Folder of the spool in a state directory."""
SEGMENTS: Final = ".seg"
JOURNALS: Final = ".open"
