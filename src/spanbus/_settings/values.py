"""Parsers of setting values: each takes a text of the environment or a value of TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import cast
from urllib.parse import urlsplit

from spanbus._patterns import pattern
from spanbus._suggest import did_you_mean
from spanbus._workflow.values import UnusableDefinition, duration_s

_SIZE = pattern(r"(\d+(?:\.\d+)?)\s*(|b|k|kb|kib|m|mb|mib|g|gb|gib|t|tb|tib)", re.IGNORECASE)
_SCALE = {
    "": 1,
    "b": 1,
    "k": 1_000,
    "kb": 1_000,
    "kib": 2**10,
    "m": 10**6,
    "mb": 10**6,
    "mib": 2**20,
    "g": 10**9,
    "gb": 10**9,
    "gib": 2**30,
    "t": 10**12,
    "tb": 10**12,
    "tib": 2**40,
}
_NATS = ("nats", "tls", "ws", "wss")
_SERVERS = "must be the URL of a NATS server, such as nats://127.0.0.1:4222, or several with commas"
_TRUE, _FALSE = ("1", "true", "on", "yes"), ("0", "false", "off", "no")

Parse = Callable[[object], object]


class InvalidValue(ValueError):
    """Invalid value; the text describes the valid ones."""


def choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value.strip().lower() in allowed:
            return value.strip().lower()
        raise InvalidValue(
            f"must be {any_of(allowed)}{did_you_mean(str(value), allowed, quoted=False)}"
        )

    return parse


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUE + _FALSE:
        return value.strip().lower() in _TRUE
    raise InvalidValue("must be true or false")


def seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    try:
        number = duration_s(value)
    except UnusableDefinition:
        number = math.nan
    if not 0 <= number <= 3600:
        raise InvalidValue('must be seconds from 0 to 3600, or a text such as "250ms"')
    return number


def size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        number = value
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())) is not None:
        number = int(float(match[1]) * _SCALE[match[2].lower()])
    else:
        raise InvalidValue('must be a number of bytes, or a text such as "256MiB"')
    if number < 2**20:
        raise InvalidValue("must be at least 1 MiB")
    return number


def days(value: object) -> int:
    if (
        isinstance(value, str)
        and value.strip().isascii()
        and value.strip().isdigit()
        and len(value.strip()) < 9
    ):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 3650:
        return value
    raise InvalidValue("must be a whole number of days from 1 to 3650")


def texts(value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(
        isinstance(item, str) for item in cast("list[object]", value)
    ):
        return tuple(cast("list[str]", value))
    raise InvalidValue("must be a list of texts")


def patterns(value: object) -> tuple[str, ...]:
    for each in texts(value):
        try:
            re.compile(each)
        except re.error as error:
            raise InvalidValue(f"holds {each!r}, which is no regular expression: {error}") from None
    return texts(value)


def text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise InvalidValue("must be a text that is not empty")


def servers(value: object) -> str:
    """Comma-separated URLs of NATS servers; empty means that nothing is carried."""
    if not isinstance(value, str):
        raise InvalidValue(_SERVERS)
    for each in filter(None, map(str.strip, value.split(","))):
        try:
            parts = urlsplit(each)
            usable = parts.scheme in _NATS and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InvalidValue(_SERVERS)
    return value.strip()


def dialects(value: object) -> dict[str, str]:
    if isinstance(value, Mapping) and all(
        isinstance(item, str) for item in cast("Mapping[str, object]", value).values()
    ):
        return dict(cast("Mapping[str, str]", value))
    raise InvalidValue('must be a table of files, such as conveyor = "telemetry/conveyor.toml"')


def any_of(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
