"""What became of an attempt to send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has it, but for ``rejected`` of the records (a partial success)."""

    rejected: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now. ``after_s`` is what the destination asked for; after ``attempts`` tries (None: no limit) it counts as refused.

    ``body`` is what was sent, given where the attempts are limited. ``heard``: the destination itself said so.
    """

    reason: str
    after_s: float | None = None
    attempts: int | None = None
    body: bytes = b""
    heard: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Never: sending the same again cannot help. ``body`` is what was sent."""

    reason: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Too much at once. ``body`` is what was sent."""

    reason: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Unwanted:
    """This destination does not take such records; nothing was sent."""

    reason: str


Outcome = Delivered | Retry | Refused | TooLarge | Unwanted
