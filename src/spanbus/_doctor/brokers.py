"""Checks of the stream that events are carried to: is it there and as it should be, and whose clocks are wrong."""

from __future__ import annotations

from collections.abc import Mapping

from spanbus._doctor.findings import Finding, ok, warning, wrong
from spanbus._pluralize import pluralize
from spanbus._settings import Settings
from spanbus.errors import BackendError, InputError

_SHOWN = 3


def brokers(settings: Settings, env: Mapping[str, str], timeout_s: float) -> list[Finding]:
    """The configured server; it has limits of its own for an answer."""
    del env, timeout_s
    try:
        from spanbus.integrations import _nats_status, nats_stream

        credentials = settings.nats_creds or None
        found = nats_stream.status(settings.nats_url, settings.nats_stream, credentials=credentials)
        clocks = _nats_status.clocks(
            settings.nats_url, settings.nats_stream, credentials=credentials
        )
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
        return [stream]
    told = [
        f"{each.publisher} {abs(each.offset_s):.1f} s {'ahead' if each.offset_s > 0 else 'behind'}"
        for each in clocks[:_SHOWN]
    ]
    more = f" and {len(clocks) - _SHOWN} more" if len(clocks) > _SHOWN else ""
    return [
        stream,
        warning(
            "nats.clocks",
            f"clocks of publishers are wrong by the server's: {', '.join(told)}{more}",
            "set the clocks of these hosts by NTP; times of their spans are wrong until then",
        ),
    ]
