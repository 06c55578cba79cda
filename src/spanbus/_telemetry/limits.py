"""Limits of spans and log records from the ``OTEL_*_LIMIT`` variables.

All limits are passed to the SDK explicitly, because it would read missing ones from the environment itself and raise for
invalid values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from spanbus._named_tuple import NamedTuple

if TYPE_CHECKING:
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk._logs import LogRecordLimits

_UNLIMITED: Final = ("", "unset")


class Limits(Protocol):
    """The limits for rendering a span: :class:`SpanLimits` or the SDK's class."""

    @property
    def max_events(self) -> int | None: ...
    @property
    def max_span_attributes(self) -> int | None: ...
    @property
    def max_event_attributes(self) -> int | None: ...
    @property
    def max_span_attribute_length(self) -> int | None: ...
    @property
    def max_attribute_length(self) -> int | None: ...


class SpanLimits(NamedTuple):
    """Limits of a span, None for unlimited; named as in the SDK."""

    max_events: int | None = 128
    max_links: int | None = 128
    max_span_attributes: int | None = 128
    max_event_attributes: int | None = 128
    max_link_attributes: int | None = 128
    max_span_attribute_length: int | None = None
    max_attribute_length: int | None = None

    def of_sdk(self) -> sdk.SpanLimits:
        """Return the limits as the SDK's class."""
        from opentelemetry.sdk.trace import SpanLimits as SdkSpanLimits

        return SdkSpanLimits(**{name: _sdk_value(value) for name, value in self._asdict().items()})


def span_limits(env: Mapping[str, str]) -> SpanLimits:
    """Read the span limits by the specification; a value that is not a number of at least 0 counts as not set."""
    attributes, length = (
        _limit(env, "OTEL_ATTRIBUTE_COUNT_LIMIT", 128),
        _limit(env, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", None),
    )
    return SpanLimits(
        max_attribute_length=length,
        max_events=_limit(env, "OTEL_SPAN_EVENT_COUNT_LIMIT", 128),
        max_links=_limit(env, "OTEL_SPAN_LINK_COUNT_LIMIT", 128),
        max_span_attributes=_limit(env, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_event_attributes=_limit(env, "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_link_attributes=_limit(env, "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", attributes),
        max_span_attribute_length=_limit(env, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", length),
    )


def log_record_limits(env: Mapping[str, str]) -> LogRecordLimits:
    """Read the log record limits; otherwise like :func:`span_limits`."""
    from opentelemetry.sdk._logs import LogRecordLimits

    attributes, length = (
        _limit(env, "OTEL_ATTRIBUTE_COUNT_LIMIT", 128),
        _limit(env, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", None),
    )
    return LogRecordLimits(
        max_attributes=_sdk_value(attributes),
        max_attribute_length=_sdk_value(length),
        max_log_record_attributes=_sdk_value(
            _limit(env, "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", attributes)
        ),
        max_log_record_attribute_length=_sdk_value(
            _limit(env, "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", length)
        ),
    )


def _limit(env: Mapping[str, str], name: str, otherwise: int | None) -> int | None:
    text = env.get(name)
    if text is None:
        return otherwise
    text = text.strip().lower()
    if text in _UNLIMITED:
        return None
    return int(text) if text.isdecimal() else otherwise


def _sdk_value(value: int | None) -> int:
    return -1 if value is None else value  # the SDK's UNSET
