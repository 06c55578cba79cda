"""Requests that are small on the wire and large when decoded: refused with 413 and at most 128 MiB above an idle backend."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from command_line import Cli

MOST_BYTES = 128 << 20
PROTOBUF, JSON = "application/x-protobuf", "application/json"


class Served:
    """``spanbus up`` in a process of its own."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid, self.port = pid, port

        self.idle_bytes = self.resident_bytes("VmRSS")

    def resident_bytes(self, which: str = "VmHWM") -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{which}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) << 10

    def assert_small(self, what: str) -> None:
        """Compare the peak memory with that of the idle backend."""
        above = self.resident_bytes() - self.idle_bytes
        assert above < MOST_BYTES, f"{what}: {above >> 20} MiB above idle"

    def post(self, path: str, body: bytes, kind: str, encoding: str = "identity") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            headers = {"Content-Type": kind, "Content-Encoding": encoding}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    cli = Cli(tmp_path_factory.mktemp("bombs"))
    with cli.start("up", "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, line
        served = Served(process.pid, int(found[1]))
        served.post("/v1/traces", b"{}", JSON)
        yield served
        process.terminate()
        process.communicate(timeout=20)


def field(number: int, content: bytes) -> bytes:
    size, encoded = len(content), b""
    while size >= 0x80:
        encoded += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + encoded + bytes([size]) + content


def nested(*numbers: int, content: bytes) -> bytes:
    for number in reversed(numbers):
        content = field(number, content)
    return content


SIZE = 12 << 20
REPEATED = {
    "empty resources": lambda n: b"\x0a\x00" * n,
    "empty scopes": lambda n: field(1, b"\x12\x00" * n),
    "empty records": lambda n: nested(1, 2, content=b"\x12\x00" * n),
    "empty attributes": lambda n: nested(1, 2, 2, content=b"\x32\x00" * n),
    "attributes of the resource": lambda n: nested(1, 1, content=b"\x0a\x00" * n),
    "an array of nothing": lambda n: nested(1, 2, 2, 6, 2, 5, content=b"\x0a\x00" * n),
    "data points": lambda n: nested(1, 2, 2, 5, content=b"\x0a\x00" * n),
    "events": lambda n: nested(1, 2, 2, content=b"\x5a\x00" * n),
    "a group that nobody knows, and records": lambda n: nested(
        1, 2, content=b"\x9b\x06\x9c\x06" + b"\x12\x00" * n
    ),
    "groups": lambda n: b"\x9b\x06\x9c\x06" * (n // 2) + nested(1, 2, content=b"\x12\x00" * 60_000),
    "links": lambda n: nested(1, 2, 2, content=b"\x6a\x00" * n),
    "exemplars": lambda n: nested(1, 2, 2, 7, 1, content=b"\x2a\x00" * n),
}


@cache
def repeated(name: str, packed: bool) -> bytes:
    body = REPEATED[name](SIZE // 2)
    return gzip.compress(body, 1) if packed else body


DOCUMENTS: dict[str, Callable[[int], str]] = {
    "arrays": lambda n: '{"resourceSpans":[' + ",".join(["[]"] * n) + "]}",
    "objects": lambda n: '{"resourceSpans":[' + ",".join(["{}"] * n) + "]}",
    "spans": lambda n: (
        '{"resourceSpans":[{"scopeSpans":[{"spans":[' + ",".join(["{}"] * n) + "]}]}]}"
    ),
    "unknown": lambda n: '{"x":{' + ",".join(f'"{at}":[]' for at in range(n // 4)) + "}}",
    "numbers": lambda n: '{"x":[' + ",".join(["1.5"] * (n // 2)) + "]}",
    "texts": lambda n: '{"x":[' + ",".join(['"a"'] * (n // 2)) + "]}",
}


@pytest.mark.parametrize(
    ("path", "packed"),
    [
        ("/v1/traces", False),
        ("/v1/logs", False),
        ("/v1/metrics", False),
        ("/v1/traces", True),
        pytest.param("/v1/logs", True, marks=pytest.mark.slow),
        pytest.param("/v1/metrics", True, marks=pytest.mark.slow),
    ],
)
def test_many_elements_are_refused_within_bounded_memory(
    served: Served, path: str, packed: bool
) -> None:
    statuses = {}
    for name in REPEATED:
        body = repeated(name, packed)
        statuses[name] = served.post(path, body, PROTOBUF, "gzip" if packed else "identity")
        served.assert_small(name)
    assert 413 in statuses.values()
    assert set(statuses.values()) <= {413, 400, 200}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_of_many_elements_is_refused_within_bounded_memory(served: Served, name: str) -> None:
    body = DOCUMENTS[name](SIZE // 3).encode()
    assert served.post("/v1/traces", body, JSON) == 413
    assert served.post("/v1/traces", gzip.compress(body), JSON, "gzip") == 413
    served.assert_small("after it")


@pytest.mark.parametrize("elements", [20_000, 60_000, 150_000])
def test_requests_just_within_the_bounds_stay_within_the_memory_limit(
    served: Served, elements: int
) -> None:
    body = nested(1, 2, content=b"\x12\x00" * elements)
    expected = 200 if elements <= 50_000 else 413
    assert served.post("/v1/logs", body, PROTOBUF) == expected
    served.assert_small("after it")


def test_a_bomb_of_zeros_and_a_bomb_in_a_bomb_are_refused(served: Served) -> None:
    bomb = gzip.compress(bytes(200 << 20))
    twice = gzip.compress(bomb)
    assert served.post("/v1/traces", bomb, PROTOBUF, "gzip") == 413
    assert served.post("/v1/traces", zlib.compress(bytes(100 << 20)), PROTOBUF, "deflate") == 413
    assert served.post("/v1/traces", twice, PROTOBUF, "gzip") in (400, 413)
    assert served.post("/v1/traces", twice, PROTOBUF, "gzip, gzip") == 415
    assert served.post("/v1/traces", bomb, JSON, "gzip") == 413
    served.assert_small("after it")


def test_deep_nesting_is_refused(served: Served) -> None:
    deep = b""
    for _ in range(5_000):
        deep = field(5, field(1, deep))
    body = nested(1, 2, 2, 6, 2, content=deep)
    assert served.post("/v1/logs", body, PROTOBUF) in (400, 413)
    assert served.post("/v1/logs", b'{"resourceLogs":' + b"[" * 50_000, JSON) == 400
    assert served.post("/v1/logs", json.dumps({"x": "[" * 50_000}).encode(), JSON) == 200


def test_a_message_with_wrong_sizes_is_refused(served: Served) -> None:
    for body in (
        b"\x0a" + b"\xff" * 9 + b"\x01" + bytes(200_000),
        b"\x0a\xff\xff\xff\x7f" * 50_000,
        struct.pack("<Q", 2**63) * 30_000,
    ):
        assert served.post("/v1/traces", body, PROTOBUF) == 400


@pytest.mark.parametrize("number", [9, 10], ids=["trace", "span"])
def test_a_huge_id_is_dropped_within_the_memory_limit(served: Served, number: int) -> None:
    for path, of_record in (("/v1/logs", number), ("/v1/traces", 4)):
        spoken = field(1, b"t" * 16) + field(2, b"s" * 8) if path == "/v1/traces" else b""
        body = nested(1, 2, 2, content=spoken + field(of_record, bytes(SIZE)))
        assert served.post(path, body, PROTOBUF) == 200
    served.assert_small("after it")


def test_an_ordinary_large_request_is_accepted(served: Served) -> None:
    attribute = field(9, field(1, b"http.route") + field(2, field(1, b"/orders/{id}" * 4)))
    spans = b"".join(
        field(
            2,
            field(1, at.to_bytes(16, "big"))
            + field(2, at.to_bytes(8, "big"))
            + field(5, b"GET")
            + attribute * 5,
        )
        for at in range(1, 10_001)
    )
    body = nested(1, 2, content=spans)
    assert len(body) > 2 << 20
    assert served.post("/v1/traces", body, PROTOBUF) == 200
    assert served.post("/v1/traces", gzip.compress(body), PROTOBUF, "gzip") == 200


def test_other_requests_are_answered_while_a_bomb_is_unpacked(served: Served) -> None:
    """The health endpoint answers while bombs are refused: nothing large is decoded on the event loop."""
    import threading

    body = gzip.compress(nested(1, 2, content=b"\x12\x00" * (SIZE // 2)))
    senders = [
        threading.Thread(target=served.post, args=("/v1/logs", body, PROTOBUF, "gzip"))
        for _ in range(4)
    ]
    for sender in senders:
        sender.start()
    answered = 0
    deadline = time.monotonic() + 60
    while any(sender.is_alive() for sender in senders) and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        connection.close()
        answered += 1
    for sender in senders:
        sender.join(60)
    assert answered
