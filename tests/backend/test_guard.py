"""Access control by Host, Origin and token."""

from __future__ import annotations

import base64
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from spanbus._backend.guard import Guard
from spanbus._backend.sessions import Guesses, Sessions
from spanbus._host import is_loopback

SECRET = "the-data"
TOKEN = "right-token"
PATHS = [
    "/v1/traces",
    "/metrics",
    "/health",
    "/api/services",
    "/api/v3/services",
    "/view/runs",
    "/live/publish",
]
OPEN = [path for path in PATHS if not path.startswith(("/view", "/live"))]
CLOSED = ["/view/runs", "/live/publish", "/anything"]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(SECRET)(scope, receive, send)


async def ask(
    guard: Guard,
    path: str = "/api/services",
    *,
    method: str = "GET",
    query: str = "",
    **headers: str,
) -> tuple[int, str, dict[str, str]]:
    given = {
        "host": "127.0.0.1:4318",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "scheme": "http",
        "http_version": "1.1",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in given.items()
            if value != "<none>"
        ],
        "client": ("127.0.0.1", 5),
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    await guard(scope, receive, send)
    answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return (
        sent[0]["status"],
        b"".join(message.get("body", b"") for message in sent[1:]).decode(),
        answered,
    )


@pytest.fixture
def local() -> Guard:
    return Guard(application, token=TOKEN, loopback_only=True, cookie="spanbus_4318")


@pytest.fixture
def listening() -> Guard:
    return Guard(application, token=TOKEN, loopback_only=False, hosts=["collector.example"])


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", OPEN)
async def test_programs_on_the_loopback_need_no_token(local: Guard, path: str) -> None:
    assert (await ask(local, path))[:2] == (200, SECRET)


@pytest.mark.parametrize("path", CLOSED)
async def test_the_data_of_the_page_needs_a_token_on_the_loopback_too(
    local: Guard, path: str
) -> None:
    status, body, _ = await ask(local, path)
    assert status == 401
    assert SECRET not in body


@pytest.mark.parametrize("path", [*OPEN, *CLOSED])
async def test_every_path_needs_a_token_on_other_addresses(listening: Guard, path: str) -> None:
    assert (await ask(listening, path))[0] == 401
    assert (await ask(listening, path, authorization=f"Bearer {TOKEN}"))[:2] == (200, SECRET)


@pytest.mark.parametrize("path", OPEN)
async def test_a_token_can_be_required_for_every_path(path: str) -> None:
    strict = Guard(application, token=TOKEN, loopback_only=True, token_everywhere=True)
    assert (await ask(strict, path))[0] == 401


@pytest.mark.parametrize("path", [*PATHS, "/"])
@pytest.mark.parametrize(
    "wrong",
    [
        "Bearer wrong",
        "Bearer ",
        "Bearer",
        "Basic !!",
        "Basic " + base64.b64encode(b"u:wrong").decode(),
        "Digest x",
        "",
    ],
)
async def test_a_wrong_token_gets_nothing_anywhere(local: Guard, path: str, wrong: str) -> None:
    status, body, answered = await ask(local, path, authorization=wrong)
    assert (status, SECRET in body) == (401, False)
    assert "Bearer" in answered["www-authenticate"]


async def test_a_wrong_token_in_the_address_gets_nothing(local: Guard) -> None:
    assert (await ask(local, query="token=wrong"))[0] == 401
    assert (await ask(local, query="token=wrong&token=" + TOKEN))[0] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"authorization": "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode()},
    ],
)
async def test_the_token_is_accepted_in_every_place(local: Guard, headers: dict[str, str]) -> None:
    assert (await ask(local, "/view/runs", **headers))[:2] == (200, SECRET)


async def test_an_old_cookie_gives_no_access_but_blocks_no_open_path(local: Guard) -> None:
    for value in ("old", TOKEN):
        assert (await ask(local, "/view/runs", cookie=f"spanbus_4318={value}"))[0] == 401
        assert (await ask(local, "/api/services", cookie=f"spanbus_4318={value}"))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "<none>",
        "",
        "evil.example",
        "evil.example:4318",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.1:4318",
        "[::2]:4318",
        "127.0.0.1:x",
        "127.0.0.1@evil.example",
        "user@localhost",
        "localhost evil",
        "[::1",
        "0.0.0.0:4318",
    ],
)
@pytest.mark.parametrize("path", ["/v1/traces", "/api/services", "/"])
async def test_a_wrong_host_gets_nothing_even_with_the_token(
    local: Guard, host: str, path: str
) -> None:
    status, body, _ = await ask(local, path, host=host, authorization=f"Bearer {TOKEN}")
    assert (status, SECRET in body) == (403, False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:4318", "[::1]:4318", "127.9.9.9:1"]
)
async def test_the_names_of_the_loopback_are_served(local: Guard, host: str) -> None:
    assert (await ask(local, host=host))[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("collector.example:4318", 200), ("192.0.2.7:4318", 200), ("evil.example", 403)],
)
async def test_a_listening_backend_serves_addresses_and_named_hosts(
    listening: Guard, host: str, status: int
) -> None:
    assert (await ask(listening, host=host, authorization=f"Bearer {TOKEN}"))[0] == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
@pytest.mark.parametrize("path", ["/v1/traces", "/api/services", "/view/runs"])
async def test_requests_of_other_sites_get_nothing_even_with_the_token(
    local: Guard, headers: dict[str, str], path: str
) -> None:
    status, body, _ = await ask(
        local, path, method="POST", authorization=f"Bearer {TOKEN}", **headers
    )
    assert (status, SECRET in body) == (403, False)


async def test_requests_of_the_own_page_are_served() -> None:
    sessions = Sessions()
    guard = Guard(
        application, token=TOKEN, loopback_only=True, cookie="spanbus_4318", sessions=sessions
    )
    assert (
        await ask(
            guard,
            "/view/runs",
            origin="http://127.0.0.1:4318",
            sec_fetch_site="same-origin",
            cookie=f"other=1; spanbus_4318={sessions.open()}",
        )
    )[0] == 200


async def test_a_link_on_another_page_may_open_the_page(local: Guard) -> None:
    assert (await ask(local, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate"))[0] == 200


async def test_answers_have_the_security_headers(local: Guard) -> None:
    _, _, answered = await ask(local)
    assert "default-src 'none'" in answered["content-security-policy"]
    assert (answered["x-content-type-options"], answered["referrer-policy"]) == (
        "nosniff",
        "same-origin",
    )


async def test_a_request_with_two_host_headers_is_refused(local: Guard) -> None:
    status, _, _ = await ask(local, host="127.0.0.1", Host="evil.example")
    assert status == 403


def test_loopback_names() -> None:
    assert [
        host
        for host in ("localhost", "127.0.0.1", "::1", "localhost.", "127.1.2.3")
        if not is_loopback(host)
    ] == []
    assert [
        host
        for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "", "2130706433")
        if is_loopback(host)
    ] == []


# --- guesses ------------------------------------------------------------------------------------------------------------------


class Pauses:
    """Delays that end when the test releases them."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = anyio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


def guessed_at(pauses: Pauses, sessions: Sessions) -> Guard:
    return Guard(
        application,
        token=TOKEN,
        loopback_only=True,
        cookie="spanbus_4318",
        sessions=sessions,
        guesses=Guesses(lambda: 0.0),
        pause=pauses,
    )


@pytest.mark.parametrize("way", ["bearer", "basic", "query"])
async def test_wrong_tokens_are_delayed_and_the_right_one_is_not(way: str) -> None:
    pauses = Pauses()
    pauses.over.set()
    guard = guessed_at(pauses, Sessions())
    for at in range(9):
        wrong = f"guess-{at}"
        basic = base64.b64encode(f"user:{wrong}".encode()).decode()
        shown = {"bearer": f"Bearer {wrong}", "basic": f"Basic {basic}", "query": "<none>"}[way]
        query = f"token={wrong}" if way == "query" else ""
        assert (await ask(guard, "/view/runs", query=query, authorization=shown))[0] == 401
    assert pauses.asked == [1.0] * 4
    assert (await ask(guard, "/view/runs", authorization=f"Bearer {TOKEN}"))[0] == 200
    assert (await ask(guard, "/view/runs"))[0] == 401  # no token is no guess
    assert pauses.asked == [1.0] * 4


async def test_concurrent_guesses_are_bounded_and_sessions_are_served() -> None:
    pauses, sessions = Pauses(), Sessions()
    guard = guessed_at(pauses, sessions)
    for _ in range(5):
        await ask(guard, "/view/runs", authorization="Bearer wrong")
    async with anyio.create_task_group() as group:
        for _ in range(32):
            group.start_soon(partial(ask, guard, "/view/runs", authorization="Bearer wrong"))
        while len(pauses.asked) < 32:
            await anyio.lowlevel.checkpoint()
        status, _, headers = await ask(guard, "/view/runs", authorization="Bearer wrong")
        assert (status, headers["retry-after"], len(pauses.asked)) == (429, "1", 32)
        assert (await ask(guard, "/view/runs", authorization=f"Bearer {TOKEN}"))[0] == 429
        cookie = f"spanbus_4318={sessions.open()}"
        assert (await ask(guard, "/view/runs", cookie=cookie))[0] == 200
        pauses.over.set()
    assert (await ask(guard, "/view/runs", authorization=f"Bearer {TOKEN}"))[0] == 200
