"""Outcomes of an attempt to send."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple


class Delivered(NamedTuple):
    """The destination has it, but for ``rejected`` of the records (a partial success)."""

    rejected: int = 0
    message: str = ""


class Retry(NamedTuple):
    """Temporary failure. ``after_s`` is what the destination asked for; after ``attempts`` tries (None: no limit) it
    counts as refused.

    ``body`` is what was sent, given where the attempts are limited. ``heard``: the destination itself said so.
    """

    reason: str
    after_s: float | None = None
    attempts: int | None = None
    body: bytes = b""
    heard: bool = False


class Refused(NamedTuple):
    """Permanent refusal: sending the same again cannot help. ``body`` is what was sent."""

    reason: str
    body: bytes = b""


class TooLarge(NamedTuple):
    """The request is too large. ``body`` is what was sent."""

    reason: str
    body: bytes = b""


class Unwanted(NamedTuple):
    """The destination does not take records of this signal; nothing was sent."""

    reason: str


Outcome = Delivered | Retry | Refused | TooLarge | Unwanted
