"""Options of a pipeline: destinations and limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spanbus._delivery.destinations import Keep
from spanbus._delivery.sender_options import to_stderr
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.resource import PlainResource

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

Local = Keep
"""Takes a signal (``traces``, ``metrics``, ``logs``) and an OTLP export request in protobuf bytes; raises what went wrong."""


class DeliveryOptions(NamedTuple):
    """Destination and time limits of telemetry. ``env`` holds the ``OTEL_EXPORTER_OTLP_*`` variables."""

    state_dir: Path
    resource: Resource | PlainResource
    env: Mapping[str, str]
    lifetime: Literal["run", "service"] = "service"
    exit_timeout_s: float = 0.25
    taking_timeout_s: float = 0.0
    """Seconds that an exit waits in total while a destination takes records, if longer than ``exit_timeout_s``."""
    quota_bytes: int = 256 * 1024 * 1024
    remote: bool = True
    """Send over OTLP."""
    local: Local | None = None
    """The local store, if it is written."""
    tell: Callable[[str], None] = to_stderr
    """Prints a message to the user."""
