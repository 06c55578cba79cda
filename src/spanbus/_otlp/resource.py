"""A resource and a scope as our encoder reads them, with the names that the SDK's have."""

from __future__ import annotations

from collections.abc import Mapping

from spanbus._named_tuple import NamedTuple

Value = str | bool | int | float | tuple[str, ...]


class PlainResource(NamedTuple):
    attributes: Mapping[str, Value]
    schema_url: str = ""


class Scope(NamedTuple):
    name: str
    version: str | None = None
    schema_url: str | None = None
    attributes: Mapping[str, Value] | None = None
