"""`spanbus up` and `spanbus view` as processes: addresses, tokens, and a stop without loss."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli
from embedded import Up
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from spanbus._store.store import Store

PROTOBUF = {"Content-Type": "application/x-protobuf"}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def up(cli: Cli) -> Iterator[Up]:
    one = Up(cli)
    yield one
    one.stop()


def test_the_addresses_are_flushed_to_a_pipe_or_file_at_once(cli: Cli) -> None:
    with Path(cli.folder / "said").open("w") as said:
        cli.env["PYTHONUNBUFFERED"] = ""
        process = subprocess.Popen(
            cli.argv("up", "--port", "0"),
            cwd=cli.folder,
            env=cli.environment(),
            stdout=said,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stderr is not None
    assert "serving" in process.stderr.readline()
    assert "/?token=" in (cli.folder / "said").read_text()
    process.terminate()
    process.communicate(timeout=20)


def post(
    url: str, body: bytes, headers: dict[str, str] | None = None, path: str = "/v1/traces"
) -> int:
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", path, body, PROTOBUF | (headers or {}))
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def spans(number: int, count: int = 20) -> bytes:
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for at in range(count):
        scope.spans.add(
            trace_id=number.to_bytes(16, "big"),
            span_id=(number * 1_000 + at + 1).to_bytes(8, "big"),
            name="work",
            start_time_unix_nano=1,
            end_time_unix_nano=2,
        )
    return request.SerializeToString()


def test_acknowledged_requests_are_stored_before_the_stop(cli: Cli) -> None:
    up = Up(cli)
    acknowledged: list[int] = []
    numbers = iter(range(1, 10**9))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers)
            try:
                if post(up.url, spans(number)) == 200:
                    acknowledged.append(number)
            except (OSError, http.client.HTTPException):
                return

    clients = [threading.Thread(target=client) for _ in range(6)]
    for each in clients:
        each.start()
    while len(acknowledged) < 60:
        time.sleep(0.005)
    up.stop()
    for each in clients:
        each.join(20)
    assert up.process.returncode == 0
    with Store.open(cli.folder / "state" / "store.sqlite3") as store:
        for number in acknowledged:
            [group] = store.trace(f"{number:032x}")
            assert len(group.scope_spans[0].spans) == 20


def test_the_backend_keeps_data_for_the_configured_days(cli: Cli) -> None:
    cli("exec", "--", "true")
    assert len(json.loads(cli("runs", "--json").out)) == 1
    path = cli.folder / "state" / "store.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE spans SET stored_at_s = stored_at_s - 2 * 86400")
    connection.close()
    cli.env["SPANBUS_STORE_DAYS"] = "1"
    up = Up(cli)
    try:
        assert post(up.url, spans(1)) == 200
    finally:
        up.stop()
    with Store.open(path) as store:
        assert store.run_heads() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_deletes_the_address_file(cli: Cli, how: signal.Signals) -> None:
    up = Up(cli)
    address = cli.folder / "state" / "backend.json"
    assert json.loads(address.read_text())["url"] == up.url
    up.process.send_signal(how)
    up.process.wait(20)
    assert not address.exists()
    up.stop()


def test_hanging_clients_do_not_delay_the_stop(cli: Cli) -> None:
    up = Up(cli)
    with socket.create_connection(("127.0.0.1", int(up.url.rpartition(":")[2]))) as hanging:
        hanging.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000\r\n\r\nabc"
        )
        up.stop()  # it fails when the process stays


def test_with_listen_every_path_needs_the_token(cli: Cli) -> None:
    up = Up(cli, "--listen", "127.0.0.1", "--token", "a-long-secret")
    try:
        assert post(up.url, spans(1)) == 401
        assert post(up.url, spans(1), {"Authorization": "Bearer wrong"}) == 401
        assert post(up.url, spans(1), {"Authorization": "Bearer a-long-secret"}) == 200
    finally:
        up.stop()


def test_a_used_port_and_a_second_backend_are_one_line_each(
    cli: Cli, up: Up, tmp_path: Path
) -> None:
    second = cli("up", "--port", "0")
    assert second.code == 2
    assert "runs already" in second.err
    (tmp_path / "other").mkdir()
    other = Cli(tmp_path / "other")
    taken = other("up", "--port", up.url.rpartition(":")[2])
    assert taken.code != 0
    assert "cannot listen" in taken.err
    assert len(taken.err.splitlines()) == 1


def test_view_starts_a_backend_and_finds_it_again(cli: Cli) -> None:
    first = cli("view", "--no-browser")
    pid = int(json.loads((cli.folder / "state" / "backend.json").read_text())["pid"])
    try:
        assert "token=" in first.out
        assert str(pid) in first.err
        again = cli("view", "--no-browser")
        assert (again.out, again.err) == (first.out, "")
    finally:
        os.kill(pid, signal.SIGTERM)


def test_a_run_that_arrives_by_several_ways_is_stored_once(cli: Cli, up: Up) -> None:
    cli.env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": up.url, "SPANBUS_EXIT_TIMEOUT_S": "5"}
    assert cli("exec", "--", "true").code == 0
    while cli("flush").code:
        time.sleep(0.05)
    [run] = json.loads(cli("runs", "--json").out)
    found = cli("show", "--otlp").json()["resourceSpans"]
    ids = [
        span["spanId"]
        for group in found  # pyright: ignore[reportGeneralTypeIssues]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]  # type: ignore[attr-defined, index]
    assert len(ids) == len(set(ids)) >= 2
    assert run["result"] == "success"
