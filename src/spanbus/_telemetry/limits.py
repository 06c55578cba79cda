"""The SDK's limits of spans and log records, from an environment that was checked before.

The SDK reads the process's environment for what it is not given, and raises for what it cannot read.
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
    """The limits that a span is rendered within: ours or the SDK's."""

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
    """The limits that hold for a span, None without one; the names are those of the SDK's."""

    max_events: int | None = 128
    max_links: int | None = 128
    max_span_attributes: int | None = 128
    max_event_attributes: int | None = 128
    max_link_attributes: int | None = 128
    max_span_attribute_length: int | None = None
    max_attribute_length: int | None = None

    def of_sdk(self) -> sdk.SpanLimits:
        """The same for a provider of the SDK."""
        from opentelemetry.sdk.trace import SpanLimits as Theirs

        return Theirs(**{name: _given(value) for name, value in self._asdict().items()})


def span_limits(env: Mapping[str, str]) -> SpanLimits:
    """``OTEL_*_LIMIT`` as the specification has them; what is no number of at least 0 counts as not set."""
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
    """The same for log records."""
    from opentelemetry.sdk._logs import LogRecordLimits

    attributes, length = (
        _limit(env, "OTEL_ATTRIBUTE_COUNT_LIMIT", 128),
        _limit(env, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", None),
    )
    return LogRecordLimits(
        max_attributes=_given(attributes),
        max_attribute_length=_given(length),
        max_log_record_attributes=_given(
            _limit(env, "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", attributes)
        ),
        max_log_record_attribute_length=_given(
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


def _given(value: int | None) -> int:
    return -1 if value is None else value  # the SDK's UNSET
