"""Resource and scope with the attributes that our encoder reads, named as in the SDK."""

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
