"""Login of a browser: cookies and codes, visibility to other processes, and limits for guessing a token."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli

from spanbus._backend.address import FILE_NAME
from spanbus._backend.sessions import CODE_S, SESSION_S, Guesses, Sessions


class Up:
    def __init__(self, cli: Cli, *arguments: str, **env: str) -> None:
        self.cli = cli
        self.process = cli.start("up", "--port", "0", *arguments, env=env)
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline()
        for _ in range(4):
            self.process.stdout.readline()
        found = json.loads((cli.folder / "state" / FILE_NAME).read_text())
        self.token: str = found["token"]
        self.port = int(found["url"].rpartition(":")[2])

    def ask(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            if body:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return (
                answer.status,
                {key.lower(): value for key, value in answer.getheaders()},
                answer.read().decode(),
            )
        finally:
            connection.close()

    def cookie(self) -> str:
        _, headers, _ = self.ask(f"/?token={self.token}")
        return headers["set-cookie"].partition(";")[0]

    def stop(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    one = Up(Cli(tmp_path))
    yield one
    one.stop()


def test_the_cookie_is_a_session_and_not_the_token(up: Up) -> None:
    status, headers, _ = up.ask(f"/?token={up.token}")
    assert status == 303
    cookie = headers["set-cookie"]
    assert up.token not in cookie
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert f"Max-Age={int(SESSION_S)}" in cookie and SESSION_S <= 86_400
    value = cookie.partition(";")[0]
    assert up.ask("/view/runs", Cookie=value)[0] == 200
    session = value.partition("=")[2]
    assert up.ask("/view/runs", Authorization=f"Bearer {session}")[0] == 401
    assert up.ask(f"/view/runs?token={session}")[0] == 401
    assert up.cookie() != value


def test_the_token_in_a_cookie_gives_no_access(up: Up) -> None:
    for name in (f"spanbus_{up.port}", "spanbus"):
        for value in (up.token, f'"{up.token}"', up.token.encode().hex()):
            assert up.ask("/view/runs", Cookie=f"{name}={value}")[0] == 401
            status, headers, body = up.ask("/", Cookie=f"{name}={value}")
            assert "set-cookie" not in headers and 'name="token"' in body, status


def test_a_session_is_not_valid_at_another_server(up: Up, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Up(Cli(tmp_path / "other"))
    try:
        session = up.cookie().partition("=")[2]
        assert other.ask("/view/runs", Cookie=f"spanbus_{other.port}={session}")[0] == 401
    finally:
        other.stop()


def test_a_login_code_works_once_and_needs_the_token(up: Up) -> None:
    assert up.ask("/login/code", "POST")[0] == 401
    assert up.ask("/login/code", "POST", Authorization="Bearer wrong")[0] == 401
    status, _, body = up.ask("/login/code", "POST", Authorization=f"Bearer {up.token}")
    code = json.loads(body)["code"]
    assert (status, code != up.token) == (200, True)
    status, headers, _ = up.ask(f"/?code={code}")
    assert status == 303
    assert up.ask("/view/runs", Cookie=headers["set-cookie"].partition(";")[0])[0] == 200
    assert "set-cookie" not in up.ask(f"/?code={code}")[1]


def test_view_does_not_pass_the_token_in_arguments(up: Up, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/argv\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    done = up.cli("view", env={"BROWSER": f"{browser} %s"})
    assert done.code == 0
    argv = (tmp_path / "argv").read_text()
    assert up.token not in argv + done.out + done.err
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(argv.strip()).query)["code"][0]
    assert up.ask(f"/?code={code}")[0] == 303
    arguments = b"".join(
        (each / "cmdline").read_bytes()
        for each in Path("/proc").glob("[0-9]*")
        if os.access(each / "cmdline", os.R_OK)
    )
    assert up.token.encode() not in arguments


@pytest.mark.parametrize("ci", ["true", "1"])
def test_in_ci_the_token_is_not_logged(tmp_path: Path, ci: str) -> None:
    up = Up(Cli(tmp_path), CI=ci)
    viewed = up.cli("view", "--no-browser", env={"CI": ci})
    out, err = up.stop()
    assert up.token not in up.first + out + err + viewed.out + viewed.err
    assert viewed.out.startswith(f"http://127.0.0.1:{up.port}/")


def test_wrong_tokens_are_slowed_down(up: Up) -> None:
    statuses = [up.ask("/login", "POST", f"token=guess{at}")[0] for at in range(8)]
    assert statuses == [401] * 5 + [429] * 3
    status, headers, _ = up.ask("/login", "POST", f"token={up.token}")
    assert status == 429 and 0 < int(headers["retry-after"]) <= 61
    assert up.ask("/view/runs", Authorization=f"Bearer {up.token}")[0] == 200


@pytest.mark.parametrize("token", ["t", "abc", "1234567"])
def test_a_short_token_is_refused(tmp_path: Path, token: str) -> None:
    done = Cli(tmp_path)("up", "--port", "0", "--token", token)
    assert done.code == 2
    assert "needs at least 8" in done.err and len(done.err.splitlines()) == 1


# --- by a clock of its own ----------------------------------------------------------------------------------------------------


def test_sessions_and_codes_expire() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    session, code = sessions.open(), sessions.code()
    assert sessions.is_open(session)
    now[0] = CODE_S + 1
    assert not sessions.redeem(code)
    now[0] = SESSION_S + 1
    assert not sessions.is_open(session)
    assert not sessions.is_open("") and not sessions.redeem("")


def test_the_number_of_sessions_and_clients_is_bounded() -> None:
    sessions = Sessions()
    opened = [sessions.open() for _ in range(1_001)]
    assert (sessions.is_open(opened[0]), sessions.is_open(opened[-1])) == (False, True)


def test_a_blocked_client_may_retry_later_and_others_at_once() -> None:
    now = [0.0]
    guesses = Guesses(lambda: now[0])
    for _ in range(5):
        guesses.wrong("here")
    assert guesses.wait_s("here") == 60.0 and guesses.wait_s("there") == 0.0
    now[0] = 61.0
    assert guesses.wait_s("here") == 0.0
