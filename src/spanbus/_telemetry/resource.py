"""The resource of this process, with or without the SDK.

Without the SDK it is built here from the same attributes, because importing the SDK takes as long as everything else that a
service loads before its first event. The SDK's resource is used if detectors are configured or the SDK is already loaded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from spanbus._otlp.resource import PlainResource, Value

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from spanbus._telemetry.redaction import Redactor

_SERVICE = "service.name"
_DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"


def asks_for_detectors(env: Mapping[str, str]) -> bool:
    """Whether ``OTEL_EXPERIMENTAL_RESOURCE_DETECTORS`` names a detector other than ``otel``."""
    return env.get(_DETECTORS, "otel").strip() not in ("", "otel")


def names_a_service(env: Mapping[str, str]) -> bool:
    """Whether the environment sets ``service.name``."""
    return bool(_environment_attributes(env).get(_SERVICE))


def resource_of_process(
    env: Mapping[str, str], known: Mapping[str, str | int], more: Mapping[str, str], *, plain: bool
) -> Resource | PlainResource:
    """Build the resource. ``more`` overrides the environment, which overrides ``known`` (project, host and CI job)."""
    if plain:
        found = {**_sdk_attributes(), **known, **_environment_attributes(env), **more}
        if not found.get(_SERVICE):
            found[_SERVICE] = f"unknown_service:{os.path.basename(sys.executable)}".rstrip(":")
        return PlainResource(found)
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    try:
        resource = Resource.create()
    except RuntimeError:  # no thread can be started for the detectors
        resource = OTELResourceDetector().detect()
    if known:
        kept = resource.attributes
        named = (
            {_SERVICE: known[_SERVICE]} if _SERVICE in known and not names_a_service(env) else {}
        )
        resource = Resource({**known, **kept, **named}, resource.schema_url)
    return resource.merge(Resource(dict(more))) if more else resource


def redacted(resource: Resource | PlainResource, redactor: Redactor) -> Resource | PlainResource:
    """Return the resource without secrets; it is sent with all telemetry."""
    kept: dict[str, Value] = {}
    for key, value in resource.attributes.items():
        cleaned = redactor.value(key, value)
        if cleaned is not None:
            kept[key] = cast("Value", cleaned)
    if isinstance(resource, PlainResource):
        return PlainResource(kept, resource.schema_url)
    from opentelemetry.sdk.resources import Resource

    return Resource(dict(kept), resource.schema_url)


def sdk_resource(resource: Resource | PlainResource) -> Resource:
    """Return the resource as the SDK's class."""
    if not isinstance(resource, PlainResource):
        return resource
    from opentelemetry.sdk.resources import Resource

    return Resource(dict(resource.attributes), resource.schema_url or None)


def _environment_attributes(env: Mapping[str, str]) -> dict[str, Value]:
    """Return the attributes of ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``."""
    found: dict[str, Value] = {}
    for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            found[key.strip()] = unquote(value.strip())
    service = env.get("OTEL_SERVICE_NAME", "").strip()
    if service:
        found[_SERVICE] = service
    return found


def _sdk_attributes() -> dict[str, Value]:
    from opentelemetry.sdk.version import __version__

    return {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": __version__,
        "service.instance.id": _instance_id(os.getpid()),
    }


@lru_cache(1)
def _instance_id(process: int) -> str:
    """Return a random UUID, cached by process id so that a forked child gets its own."""
    del process
    random = os.urandom(16).hex()
    variant = f"{8 | int(random[16], 16) & 3:x}"
    return f"{random[:8]}-{random[8:12]}-4{random[13:16]}-{variant}{random[17:20]}-{random[20:]}"
