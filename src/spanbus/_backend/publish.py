"""Endpoint for other processes to publish live events."""

from __future__ import annotations

import json
from typing import cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from spanbus._backend.address import ProcessId
from spanbus._backend.in_flight import Body, Full, InFlight, TooSlow
from spanbus._backend.live import VERSION, BadMessage, EventBusWebSocketBridge
from spanbus._otlp.bounds import check_json

BODY_LIMIT_BYTES = 4 << 20
_MOST_ELEMENTS = 200_000


class Publishing:
    """``POST /live/publish``: passes the messages of one publisher to the bridge."""

    def __init__(self, bridge: EventBusWebSocketBridge, in_flight: InFlight | None = None) -> None:
        self._bridge = bridge
        self._in_flight = in_flight or InFlight()

    async def endpoint(self, request: Request) -> Response:
        """Answer 204 for accepted messages, 400 with the reason for malformed ones, 429 without room."""
        try:
            with self._in_flight.body() as held:
                body = await bounded_body(request, BODY_LIMIT_BYTES, held)
                check_json(body, _MOST_ELEMENTS)
                document: object = json.loads(body)
        except Full:
            return PlainTextResponse("too much is being received at once\n", 429)
        except (ValueError, RecursionError):
            return PlainTextResponse("not a JSON document of at most 4 MiB\n", 400)
        except ClientDisconnect:
            return Response(status_code=400)
        if not isinstance(document, dict):
            return PlainTextResponse("not a JSON object\n", 400)
        fields = cast("dict[str, object]", document)
        source, pid, messages = fields.get("source"), fields.get("pid"), fields.get("messages")
        if fields.get("v") != VERSION:
            return PlainTextResponse(f"this backend understands version {VERSION}\n", 400)
        if (
            not isinstance(source, str)
            or not 0 < len(source) <= 256
            or not isinstance(messages, list)
        ):
            return PlainTextResponse("source and messages are needed\n", 400)
        process = None
        if isinstance(pid, int) and not isinstance(pid, bool) and 0 < pid < 2**31:
            process = ProcessId(
                pid, str(fields.get("started", ""))[:64], str(fields.get("host", ""))[:256]
            )
        try:
            self._bridge.announce(
                source,
                process,
                cast("list[object]", messages),
                leaving=fields.get("leaving") is True,
            )
        except BadMessage as error:
            return PlainTextResponse(f"{error}\n", 400)
        return Response(status_code=204)


async def bounded_body(
    request: Request, limit_bytes: int, held: Body, time_s: float = 10.0
) -> bytes:
    """Read the body of a request. Raises ValueError if it is too large or too slow, :class:`Full` without room."""
    try:
        return await held.read(request, limit_bytes, time_s)
    except TooSlow:
        raise ValueError("the body took too long") from None
