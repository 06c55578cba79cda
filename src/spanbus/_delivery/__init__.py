"""Bytes to the collector: spooled on disk, sent, and kept until they are acknowledged; or the SDK's own way."""

from typing import Final

FOLDER: Final = "spool"
"""The spool's, in a state directory."""
SEGMENTS: Final = ".seg"
JOURNALS: Final = ".open"
