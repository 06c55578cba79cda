"""Outcomes of an attempt to send."""

from __future__ import annotations

from spanbus._named_tuple import NamedTuple


class Delivered(NamedTuple):
    """Delivered, except for ``rejected`` records (a partial success)."""

    rejected: int = 0
    message: str = ""


class Retry(NamedTuple):
    """Temporary failure; after ``attempts`` attempts (None: no limit) it counts as refused.

    ``after_s`` is the delay that the destination asked for. ``body`` is the request, given if attempts are limited. ``heard``
    marks an answer of the destination itself, not a failure of the connection.
    """

    reason: str
    after_s: float | None = None
    attempts: int | None = None
    body: bytes = b""
    heard: bool = False


class Refused(NamedTuple):
    """Permanent refusal: sending it again cannot help. ``body`` is the request."""

    reason: str
    body: bytes = b""


class TooLarge(NamedTuple):
    """The request is too large. ``body`` is the request."""

    reason: str
    body: bytes = b""


class Unwanted(NamedTuple):
    """The destination does not take records of this signal; nothing was sent."""

    reason: str


Outcome = Delivered | Retry | Refused | TooLarge | Unwanted
