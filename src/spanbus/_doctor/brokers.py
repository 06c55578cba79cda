"""Checks of the NATS stream: its configuration, the publishers' clocks and the observers' sampling."""

from __future__ import annotations

from collections.abc import Mapping

from spanbus._doctor.findings import Finding, ok, warning, wrong
from spanbus._pluralize import pluralize
from spanbus._settings import Settings
from spanbus.errors import BackendError, InputError

_SHOWN = 3


def brokers(settings: Settings, env: Mapping[str, str], timeout_s: float) -> list[Finding]:
    """Check the configured NATS server."""
    del timeout_s  # the client has its own
    try:
        from spanbus.integrations import _nats_status, nats_stream

        credentials = settings.nats_creds or None
        found = nats_stream.status(settings.nats_url, settings.nats_stream, credentials=credentials)
        clocks = _nats_status.clocks(
            settings.nats_url, settings.nats_stream, credentials=credentials
        )
        sampling = _samplers(settings, env)
    except (BackendError, InputError) as error:
        return [
            wrong("nats", str(error), "until then events wait in the state directory; runs go on")
        ]
    where = f"{found.servers} (nats-server {found.version}): stream {found.stream}"
    if found.differences:
        stream = warning(
            "nats",
            f"{where}: {found.differences[0]}",
            "`spanbus nats setup` changes what may be changed",
        )
    else:
        stream = ok("nats", f"{where}, {pluralize(found.messages, 'message', 'messages')}")
    if not clocks:
        return [stream, *sampling]
    offsets = [
        f"{each.publisher} {abs(each.offset_s):.1f} s {'ahead' if each.offset_s > 0 else 'behind'}"
        for each in clocks[:_SHOWN]
    ]
    more = f" and {len(clocks) - _SHOWN} more" if len(clocks) > _SHOWN else ""
    return [
        stream,
        *sampling,
        warning(
            "nats.clocks",
            f"clocks of publishers are wrong by the server's: {', '.join(offsets)}{more}",
            "set the clocks of these hosts by NTP; times of their spans are wrong until then",
        ),
    ]


def _samplers(settings: Settings, env: Mapping[str, str]) -> list[Finding]:
    """Compare samplers if observers make the telemetry: spans made here have their parents there."""
    if settings.telemetry != "elsewhere":
        return []
    from spanbus._telemetry.sampling import EnvironmentSampler
    from spanbus.integrations import _nats_status

    mine = str(EnvironmentSampler.of(env))
    theirs = _nats_status.samplers(
        settings.nats_url, settings.nats_stream, credentials=settings.nats_creds or None
    )
    others = [each for each in theirs if each != mine]
    if not others:
        return (
            [ok("nats.sampler", f"observers sample as this process does: {mine}")] if theirs else []
        )
    return [
        warning(
            "nats.sampler",
            f"observers sample by {', '.join(others[:_SHOWN])}, this process by {mine}: spans made here may lack their parents",
            "set OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG alike where events come from and where they are observed",
        )
    ]
