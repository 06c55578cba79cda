"""The resource of this process, with the SDK or without it.

It is put together here of the same attributes, for importing the SDK takes as long as all else that a service loads before
its first event. Whoever asks for detectors, or has loaded the SDK, gets the SDK's.
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
    """Whether others than the environment's own are asked for."""
    return env.get(_DETECTORS, "otel").strip() not in ("", "otel")


def names_a_service(env: Mapping[str, str]) -> bool:
    """Whether the environment says whose telemetry this is."""
    return bool(_given(env).get(_SERVICE))


def resource_of_process(
    env: Mapping[str, str], known: Mapping[str, str | int], more: Mapping[str, str], *, plain: bool
) -> Resource | PlainResource:
    """``more`` wins over the environment, and that over what is ``known`` of project, host and job."""
    if plain:
        found = {**_sdk_attributes(), **known, **_given(env), **more}
        if not found.get(_SERVICE):
            found[_SERVICE] = f"unknown_service:{os.path.basename(sys.executable)}".rstrip(":")
        return PlainResource(found)
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    try:
        resource = Resource.create()
    except RuntimeError:  # it starts threads for its detectors, and there are none to be had
        resource = OTELResourceDetector().detect()
    if known:
        kept = resource.attributes
        named = (
            {_SERVICE: known[_SERVICE]} if _SERVICE in known and not names_a_service(env) else {}
        )
        resource = Resource({**known, **kept, **named}, resource.schema_url)
    return resource.merge(Resource(dict(more))) if more else resource


def redacted(resource: Resource | PlainResource, redactor: Redactor) -> Resource | PlainResource:
    """The same without secrets: a resource goes with everything that is sent."""
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
    """The same for providers of the SDK."""
    if not isinstance(resource, PlainResource):
        return resource
    from opentelemetry.sdk.resources import Resource

    return Resource(dict(resource.attributes), resource.schema_url or None)


def _given(env: Mapping[str, str]) -> dict[str, Value]:
    """``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``."""
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
    """Random; the same for all that one process makes, another one in a child."""
    del process
    random = os.urandom(16).hex()
    variant = f"{8 | int(random[16], 16) & 3:x}"
    return f"{random[:8]}-{random[8:12]}-4{random[13:16]}-{variant}{random[17:20]}-{random[20:]}"
