"""ASGI application of the embedded backend: guard, receiver, query API, metrics, live stream and page."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from spanbus._backend.api import QueryApi
from spanbus._backend.archive import Archive
from spanbus._backend.guard import Guard
from spanbus._backend.in_flight import Full
from spanbus._backend.live import EventBusWebSocketBridge
from spanbus._backend.outputs import Outputs
from spanbus._backend.prometheus import Exposition
from spanbus._backend.publish import Publishing, bounded_body
from spanbus._backend.receiver import Receiver, ReceiverLimits, Sink
from spanbus._backend.report import page_text
from spanbus._backend.scrapes import Scrapes
from spanbus._backend.sessions import SESSION_S, Guesses, Sessions
from spanbus._backend.views import Views
from spanbus._version import __version__
from spanbus.errors import SpanbusError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SPAN_ID = re.compile("[0-9a-f]{16}")

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Options of the backend. ``token`` is for logging in."""

    token: str
    loopback_only: bool = True
    hosts: Iterable[str] = ()
    token_everywhere: bool = False
    cookie: str = "spanbus"
    jaeger_url: str | None = None
    """URL of a Jaeger that also has the traces, for links on the page."""
    state_dir: Path | None = None
    """State directory with the kept output of commands."""
    limits: ReceiverLimits = field(default_factory=ReceiverLimits)


class Backend:
    """The embedded backend and its ASGI application, ``app``.

    The caller opens and closes the store. ``sink``, if given, takes the received requests instead of the store.
    """

    def __init__(self, store: Archive, options: BackendOptions, sink: Sink | None = None) -> None:
        self._store = store
        self._options = options
        self.receiver = Receiver(sink or store, options.limits)
        self.bridge = EventBusWebSocketBridge()
        self._exposition = Exposition(store, own=self._own_metrics)
        self._views = Views(store, jaeger_url=options.jaeger_url)
        self._outputs = Outputs(options.state_dir)
        self._started_at = time.monotonic()
        # Several, so that a slow query blocks no other client; few, to bound the memory.
        readers = anyio.CapacityLimiter(4)

        async def in_thread(work: Callable[[], T]) -> T:
            return await anyio.to_thread.run_sync(work, limiter=readers)

        self._in_thread = in_thread
        self.scrapes = Scrapes()
        self._sessions, self._guesses = Sessions(), Guesses()
        self.app = self._build()

    def _build(self) -> ASGIApp:
        routes = [
            *self.receiver.routes(),
            *QueryApi(self._store, self._in_thread, self.receiver.in_flight).routes(),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/view/runs", self._wall(self._runs)),
            # A path, because the run id of a foreign engine may hold any character.
            Route("/view/runs/{run_id:path}/spans/{span_id}", self._wall(self._span)),
            Route("/view/runs/{run_id:path}", self._wall(self._run)),
            Route("/view/traces", self._wall(self._traces)),
            Route("/view/traces/{trace_id}", self._wall(self._trace)),
            Route("/view/traces/{trace_id}/spans/{span_id}", self._wall(self._trace_span)),
            Route("/view/phases", self._wall(self._phases)),
            Route("/view/phase", self._wall(self._phase)),
            Route("/view/usual", self._wall(self._usual)),
            Route("/view/diff", self._wall(self._diff)),
            Route("/view/outputs", self._wall(self._all_outputs)),
            Route("/view/output", self._wall(self._output)),
            Route("/view/newest", self._wall(self._newest_lines)),
            Route(
                "/live/publish",
                Publishing(self.bridge, self.receiver.in_flight).endpoint,
                methods=["POST"],
            ),
            WebSocketRoute("/live", self.bridge.serve),
            Route("/login", self._login, methods=["GET", "POST"]),
            Route("/login/code", self._code, methods=["POST"]),
            Route("/page/{name}", self._page_file),
            Route("/", self._page),
        ]
        guard = Middleware(
            Guard,
            token=self._options.token,
            loopback_only=self._options.loopback_only,
            hosts=tuple(self._options.hosts),
            token_everywhere=self._options.token_everywhere,
            cookie=self._options.cookie,
            sessions=self._sessions,
        )
        self._guard = Guard(
            _nothing,
            token=self._options.token,
            loopback_only=self._options.loopback_only,
            cookie=self._options.cookie,
            sessions=self._sessions,
        )
        return Starlette(
            routes=routes,
            middleware=[guard, Middleware(GZipMiddleware, minimum_size=2_000, compresslevel=1)],
            exception_handlers={Exception: _unexpected},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        del app
        async with self.bridge.lifespan():
            yield

    # --- health and metrics -----------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        del request
        received, live = self.receiver.statistics(), self.bridge.statistics()
        return JSONResponse(
            {
                "status": "ok",
                "version": __version__,
                "uptime_s": round(time.monotonic() - self._started_at, 3),
                "receiver": received._asdict(),
                "live": live._asdict(),
            }
        )

    def _own_metrics(self) -> dict[str, float]:
        received, live = self.receiver.statistics(), self.bridge.statistics()
        return {
            "spanbus_backend_records_received": received.records,
            "spanbus_backend_records_rejected": received.rejected,
            "spanbus_backend_requests_refused": received.refused,
            "spanbus_backend_requests_busy": received.busy,
            "spanbus_backend_requests_failed": received.failed,
            "spanbus_backend_live_messages": live.messages,
            "spanbus_backend_live_missed": live.missed,
        }

    async def _metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        arrived_s = time.monotonic()
        try:
            # Concurrent scrapers share an answer: any number of them costs at most two renderings.
            async with self.scrapes.lock:
                answer = self.scrapes.made_since(arrived_s, accept)
                if answer is None:
                    began_s = time.monotonic()
                    answer = await self._in_thread(lambda: self._exposition.render(accept))
                    self.scrapes.keep(began_s, accept, answer)
        except SpanbusError as error:
            return PlainTextResponse(f"{error}\n", 503)
        body, media_type = answer
        return Response(body, media_type=media_type)

    # --- documents of the page ----------------------------------------------------------------------------------------------

    def _wall(
        self, endpoint: Callable[[Request], Awaitable[object]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                found = await endpoint(request)
            except ValueError as error:
                return JSONResponse({"error": str(error)[:300]}, 400)
            except SpanbusError as error:
                logger.warning("%s: %s", request.url.path, error)
                return JSONResponse({"error": "the store cannot be read now"}, 503)
            if found is None:
                return JSONResponse({"error": "not found"}, 404)
            return Response(
                json.dumps(found, separators=(",", ":")),
                media_type="application/json",
                headers={"Cache-Control": "no-store"},
            )

        return answer

    async def _runs(self, request: Request) -> object:
        query = request.query_params
        limit, offset = (
            _whole(query.get("limit"), 100, 1_000),
            _whole(query.get("offset"), 0, 10**9),
        )
        since_s = _whole(query.get("since"), 0, 10**9)
        return await self._in_thread(
            lambda: self._views.runs(
                workflow=query.get("workflow") or None,
                project=query.get("project") or None,
                result=query.get("result") or None,
                text=query.get("q") or None,
                since_s=since_s or None,
                limit=limit,
                offset=offset,
            )
        )

    async def _run(self, request: Request) -> object:
        return await self._in_thread(lambda: self._views.run(request.path_params["run_id"]))

    async def _span(self, request: Request) -> object:
        run_id, span_id = request.path_params["run_id"], request.path_params["span_id"]
        if _SPAN_ID.fullmatch(span_id) is None:  # it belongs to the run id
            return await self._in_thread(lambda: self._views.run(f"{run_id}/spans/{span_id}"))
        return await self._in_thread(lambda: self._views.span(run_id, span_id))

    async def _traces(self, request: Request) -> object:
        query = request.query_params
        limit, since_s = (
            _whole(query.get("limit"), 100, 1_000),
            _whole(query.get("since"), 0, 10**9),
        )
        return await self._in_thread(
            lambda: self._views.traces(
                service=query.get("service") or None,
                text=query.get("q") or None,
                since_s=since_s or None,
                limit=limit,
            )
        )

    async def _trace(self, request: Request) -> object:
        return await self._in_thread(lambda: self._views.trace(request.path_params["trace_id"]))

    async def _trace_span(self, request: Request) -> object:
        return await self._in_thread(
            lambda: self._views.trace_span(
                request.path_params["trace_id"], request.path_params["span_id"]
            )
        )

    async def _phases(self, request: Request) -> object:
        query = request.query_params
        since_s = _whole(query.get("since"), 604_800, 10**9)
        workflow, project = query.get("workflow") or None, query.get("project") or None
        return await self._in_thread(
            lambda: self._views.phases(since_s=since_s, workflow=workflow, project=project)
        )

    async def _phase(self, request: Request) -> object:
        query = request.query_params
        since_s = _whole(query.get("since"), 2_592_000, 10**9)
        return await self._in_thread(
            lambda: self._views.phase(
                project=query.get("project", ""),
                workflow=query.get("workflow", ""),
                phase=query.get("phase", ""),
                since_s=since_s,
            )
        )

    async def _usual(self, request: Request) -> object:
        query = request.query_params
        return await self._in_thread(
            lambda: self._views.usual(
                workflow=query.get("workflow", ""), project=query.get("project") or None
            )
        )

    async def _diff(self, request: Request) -> object:
        query = request.query_params
        return await self._in_thread(
            lambda: self._views.diff(query.get("baseline", ""), query.get("candidate", ""))
        )

    async def _all_outputs(self, request: Request) -> object:
        run_id = request.query_params.get("run", "")
        return await self._in_thread(lambda: self._outputs.all(run_id))

    async def _newest_lines(self, request: Request) -> object:
        run_id = request.query_params.get("run", "")
        return await self._in_thread(lambda: self._outputs.newest(run_id))

    async def _output(self, request: Request) -> object:
        query = request.query_params
        return await self._in_thread(
            lambda: self._outputs.one(
                query.get("run", ""), query.get("file", ""), query.get("after", "")
            )
        )

    # --- the page -----------------------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        code = request.query_params.get("code")
        if code is not None and self._sessions.redeem(code):
            return self._logged_in()
        shown = self._guard.presented(request.scope)
        if shown is None:
            return _file("login.html")
        if "token" in request.query_params:  # the token leaves the address bar and the history
            return self._logged_in()
        return _file("index.html")

    async def _login(self, request: Request) -> Response:
        if request.method == "GET":
            return _file("login.html")
        try:
            with self.receiver.in_flight.body() as held:
                body = await bounded_body(request, 4_096, held)
            form = parse_qs(body.decode("utf-8", "replace"))
        except (ValueError, Full, ClientDisconnect):
            return Response(status_code=400)
        client = request.client.host if request.client is not None else ""
        if wait_s := self._guesses.wait_s(client):
            return PlainTextResponse(
                "too many wrong tokens; wait a minute\n", 429, {"Retry-After": str(int(wait_s) + 1)}
            )
        if not self._guard.matches(form.get("token", [""])[0].strip()):
            self._guesses.wrong(client)
            answer = _file("login.html")
            answer.status_code = 401
            return answer
        return self._logged_in()

    async def _code(self, request: Request) -> Response:
        """Issue a code for one login: a browser's URL shows in the arguments of its process, so it must not hold the token."""
        del request
        return JSONResponse({"code": self._sessions.code()}, headers={"Cache-Control": "no-store"})

    def _logged_in(self) -> Response:
        answer = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
        answer.set_cookie(
            self._options.cookie,
            self._sessions.open(),
            httponly=True,
            samesite="strict",
            max_age=int(SESSION_S),
        )
        return answer

    async def _page_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _PAGE_FILES:
            return PlainTextResponse("not found\n", 404)
        return _file(name)


_PAGE_FILES = frozenset(
    """
    app.js compare.js detail.js keys.js live.js page.js phases.js run.js runs.js style.css text.js traces.js tree.js waterfall.js
    """.split()
)


def _file(name: str) -> Response:
    return Response(
        page_text(name),
        media_type=_MEDIA_TYPES[PurePosixPath(name).suffix],
        headers={"Cache-Control": "no-cache"},
    )


def _whole(text: str | None, default: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return min(int(text), most)


async def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("%s %s", request.method, request.url.path, exc_info=error)
    return PlainTextResponse("an error of the backend; its log has it\n", 500)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send
