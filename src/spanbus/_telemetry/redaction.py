"""Redaction of everything that leaves the process: an allow-list of payload keys, and removal of secrets from texts.

Redaction is on by default. Secrets are recognized by their shape (tokens of well-known services, private keys, JSON web
tokens, URLs with passwords, headers) and by what precedes them (``password=``, ``--token``, ``"api_key":``). This is a
heuristic, not a guarantee: do not publish what must never leave. Scrubbing takes linear time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

from spanbus._bounded_cache import bounded_cache
from spanbus._loaded import is_instance_of
from spanbus._semantics.names import ERROR_TEXT_LIMIT, EVENT_ATTRIBUTES_LIMIT, STRING_LIMIT
from spanbus._telemetry import scrubbing
from spanbus._telemetry.command_lines import cleaned_arguments
from spanbus._telemetry.secret_rules import REDACTED as REDACTED
from spanbus._telemetry.sensitive_names import is_sensitive as is_sensitive
from spanbus.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

PAYLOAD_KEYS = frozenset(
    """
    action all attempt attempts cached command commit count counts cycle delay description duration error error_type errors_count executable
    execution_mode exit_code failed fixed hook hook_count hooks max_attempts mode name needs next_attempt not_started number passed phase phases priority progress publish
    reason result retries rule security_level skipped skip_hooks stage started_by state status step step_id step_name strategy success summary
    task task_id test_mode timestamp total type version workflow workflow_id run_id job_id message output_tail ai_agent timeout
    """.split()
)
_ERROR_KEYS = frozenset({"error", "message", "output_tail", "exception", "reason"})


class Redactor:
    """Removes secrets from texts, and drops payload keys that are not allowed. Immutable and thread-safe.

    ``patterns`` are further regular expressions whose matches are removed, ``payload_allow`` further allowed payload keys.
    Raises :class:`~spanbus.errors.SettingsError` for an invalid pattern.
    """

    def __init__(
        self,
        enabled: bool = True,
        *,
        patterns: Iterable[str] = (),
        payload_allow: Iterable[str] = (),
    ) -> None:
        self.enabled = enabled
        self._allowed = PAYLOAD_KEYS | frozenset(payload_allow)
        own: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                own.append(re.compile(pattern))
            except re.error as error:
                raise SettingsError(
                    f"redact_patterns: {pattern!r} is not a regular expression: {error}"
                ) from error
        self._patterns = tuple(own)
        self._clean_short = bounded_cache(self._clean, 4_096)

    def text(self, text: str, limit: int = STRING_LIMIT) -> str:
        """Return ``text`` without secrets and control characters, at most ``limit`` characters. Never raises. Idempotent."""
        if len(text) <= 128:
            text = self._clean_short(text)
        else:
            text = self._clean(scrubbing.beginning(text, limit * 4))
        for _ in range(3):  # cutting may expose a new match, whose replacement may be longer
            if len(text) <= limit:
                return text
            text = self._clean(scrubbing.shortened(text, limit))
        return text if len(text) <= limit else scrubbing.shortened(text, limit)

    def whole(self, text: str) -> str:
        """Return ``text`` without secrets and control characters, in full length."""
        return self._clean(text)

    def end_of(self, text: str, limit: int) -> str:
        """Return the last ``limit`` characters of ``text`` without secrets and control characters."""
        text = self._clean(text[-limit * 5 :])
        return text if len(text) <= limit else self._clean(text[-limit:])[-limit:]

    def _clean(self, text: str) -> str:
        text = scrubbing.plain(text)
        if self.enabled:
            text = scrubbing.without_secrets(text)
            for pattern in self._patterns:
                text = pattern.sub(REDACTED, text)
        return text

    def arguments(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """Return a command's arguments without secrets, also if option and value are two arguments."""
        return tuple(self._arguments(arguments[:EVENT_ATTRIBUTES_LIMIT]))

    def _arguments(self, arguments: Sequence[str]) -> list[str]:
        if not self.enabled:
            return [self.text(argument) for argument in arguments]
        return cleaned_arguments(arguments, self.text, self._clean)

    def attributes(self, payload: Mapping[str, object]) -> dict[str, AttributeValue]:
        """Return the allowed leaves of a payload, at most 32; nested names are joined with dots."""
        found: dict[str, AttributeValue] = {}
        self._collect("", payload, found, 0)
        return found

    def named(self, prefix: str, key: str) -> tuple[str | None, int]:
        """Return the attribute name of a payload key, None if not allowed, and its text limit, 0 for a sensitive key."""
        limit = (
            0
            if self.enabled and is_sensitive(key)
            else ERROR_TEXT_LIMIT
            if key in _ERROR_KEYS
            else STRING_LIMIT
        )
        return f"{prefix}{key}" if key in self._allowed else None, limit

    def _collect(
        self,
        prefix: str,
        payload: Mapping[str, object],
        found: dict[str, AttributeValue],
        depth: int,
    ) -> None:
        for key, value in payload.items():
            if len(found) >= EVENT_ATTRIBUTES_LIMIT:
                return
            if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - foreign payloads
                continue
            if key not in self._allowed and not prefix.endswith("counts."):
                continue
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                if depth < 3:
                    inner = cast("Mapping[str, object]", value)
                    self._collect(f"{name}.", inner, found, depth + 1)
                continue
            cleaned = self.value(key, value)
            if cleaned is not None:
                found[name] = cleaned

    def value(self, key: str, value: object) -> AttributeValue | None:
        """Return a value as an attribute, None for live objects."""
        if value is None or isinstance(value, bool):
            return value
        if self.enabled and is_sensitive(key):
            return REDACTED
        if isinstance(value, Enum):
            return self.value(key, value.value)
        if isinstance(value, str):
            if key == "output_tail":
                return self.end_of(str.__str__(value), ERROR_TEXT_LIMIT)
            return self.text(
                str.__str__(value), ERROR_TEXT_LIMIT if key in _ERROR_KEYS else STRING_LIMIT
            )
        if isinstance(value, int):
            number = int.__index__(value)
            return (
                number
                if -(2**63) <= number < 2**63
                else self.text(
                    str(number) if number.bit_length() < 10_000 else "a very large number"
                )
            )
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else str(number)
        if (
            isinstance(value, PurePath)
            or is_instance_of(value, "datetime", "datetime", "date")
            or is_instance_of(value, "uuid", "UUID")
        ):
            return self.text(str(value))
        if isinstance(value, BaseException):
            try:
                return self.text(f"{type(value).__name__}: {value}", ERROR_TEXT_LIMIT)
            except Exception:  # a broken __str__ of a foreign exception
                return type(value).__name__
        if isinstance(value, list | tuple):
            items = cast("Sequence[object]", value)
            if all(isinstance(item, str) for item in items):
                return self.arguments([str.__str__(text) for text in cast("Sequence[str]", items)])
            if all(isinstance(item, bool | int | float | str) or item is None for item in items):
                return self.text(
                    json.dumps(
                        [
                            item
                            if not isinstance(item, float) or math.isfinite(item)
                            else str(item)
                            for item in items[:100]
                        ]
                    )
                )
        return None
