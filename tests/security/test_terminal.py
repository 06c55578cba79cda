"""Text from other programs or a collector cannot control the terminal."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import Cli
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from spanbus._cli import console
from spanbus._delivery.answers import shown
from spanbus._sanitize import one_line

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m\u202egnp\u200b\x00\x08\x7f\x1b]8;;x\x1b\\\u2066\ufeff\u00ad"
    "a\ufe0f\ufe01\u3164\U000e0041\U000e0101e"
) + "\u0301" * 9
STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u202e\u2066\u3164\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]|\u0301{5}"
)


def assert_harmless(text: str) -> None:
    found = STEERING.search(text.replace("\r\n", "\n"))
    assert found is None, repr(text)


@contextmanager
def collector(status: int, kind: str, body: bytes) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def partial() -> bytes:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    answer.partial_success.error_message = EVIL
    return answer.SerializeToString()


ANSWERS = {
    "json 400": (400, "application/json", json.dumps({"message": EVIL}).encode()),
    "json 401": (401, "application/json", json.dumps({"message": EVIL}).encode()),
    "json 503": (503, "application/json", json.dumps({"message": EVIL}).encode()),
    "protobuf 400": (400, "application/x-protobuf", Status(message=EVIL).SerializeToString()),
    "text 400": (400, "text/plain", EVIL.encode()),
    "partial success": (200, "application/x-protobuf", partial()),
    "partial success in json": (
        200,
        "application/json",
        json.dumps({"partialSuccess": {"rejectedSpans": 1, "errorMessage": EVIL}}).encode(),
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_messages_of_the_collector_are_harmless(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path)
    with collector(*ANSWERS[name]) as url:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "SPANBUS_EXIT_TIMEOUT_S": "5"}
        for command in (["exec", "--", "true"], ["flush", "--wait", "1"], ["status"]):
            done = cli(*command, env=env)
            assert_harmless(done.out + done.err)


@pytest.fixture
def written(tmp_path: Path) -> Cli:
    """A store in which every text chosen by a sender is hostile."""
    cli = Cli(tmp_path)
    event = {
        "event_type": "workflow.started",
        "payload": {"workflow_id": f"run{EVIL}", "workflow": f"w{EVIL}"},
    }
    name = f"p{EVIL}"
    lines = [
        event,
        {"event_type": "workflow.phase.started", "payload": {"phase": name}},
        {
            "event_type": f"odd{EVIL}",
            "payload": {"phase": name, f"key{EVIL}": EVIL, "message": EVIL},
        },
        {
            "event_type": "workflow.phase.failed",
            "payload": {"phase": name, "error": EVIL, "error_type": EVIL},
        },
        {"event_type": "workflow.failed", "payload": {"error": EVIL, "workflow_id": f"run{EVIL}"}},
    ]
    (tmp_path / f"events{EVIL.replace(chr(0), '')}.jsonl").write_text(
        "\n".join(
            json.dumps({"timestamp": f"2026-01-01T00:00:0{at}Z", **line})
            for at, line in enumerate(lines)
        )
    )
    return cli


def test_commands_that_show_a_run_print_harmless_text(written: Cli) -> None:
    [file] = written.folder.glob("*.jsonl")
    shown = [written("replay", str(file))]
    shown.extend(
        written(*command)
        for command in (
            ["runs"],
            ["show", "last"],
            ["show", "last", "--events"],
            ["show", "last", "--json"],
            ["diff", "last", "last"],
            ["report", "last", "--markdown"],
            ["status"],
            ["doctor", "--timeout", "0.2"],
            ["show", f"no{EVIL.replace(chr(0), '')}"],
            ["run", f"no{EVIL.replace(chr(0), '')}"],
        )
    )
    for done in shown:
        assert_harmless(done.out + done.err)


def test_names_of_settings_files_and_keys_are_harmless(tmp_path: Path) -> None:
    folder = tmp_path / f"x{EVIL.replace(chr(0), '')}"
    folder.mkdir()
    cli = Cli(folder, {"SPANBUS_STATE_DIR": str(tmp_path / "state")})
    (folder / "spanbus.toml").write_text('store_days = 1\n"a\\u001b[2J" = 1\n')
    for command in (["runs"], ["run"], ["doctor", "--timeout", "0.2"], ["status"]):
        done = cli(*command)
        assert_harmless(done.out + done.err)


WORD = EVIL.replace("\x00", "")
USAGES = {
    "a command": [WORD],
    "an option": [f"--{WORD}"],
    "a word too many": ["runs", WORD],
    "an option of a command": ["doctor", f"--{WORD}"],
    "a value": ["flush", "--wait", WORD],
    "a command of a group": ["stack", WORD],
    "an option of exec": ["exec", f"--{WORD}", "--", "true"],
    "a program": ["exec", "--", WORD],
    "a host": ["up", "--listen", WORD],
    "a token": ["up", "--port", "0", "--token", WORD],
    "a group of observers": ["observe", "nats://127.0.0.1:1", "--once", "--group", WORD],
    "a server": ["nats", "status", f"nats://{WORD}"],
    "a file": ["replay", WORD],
}


@pytest.mark.parametrize("what", USAGES)
def test_words_of_the_command_line_are_harmless_in_errors(tmp_path: Path, what: str) -> None:
    done = Cli(tmp_path)(*USAGES[what], timeout_s=30)
    assert done.code != 0
    assert_harmless(done.out + done.err)


def test_visible_text_is_unchanged() -> None:
    for text in (
        "\u26a0\ufe0f",
        "1\ufe0f\u20e3",
        "e\u0301\u0323",
        "\u0e01\u0e48\u0e4d",
        "\u0928\u093f\u0951",
    ):
        assert one_line(text) == text
    for hidden in ("a\ufe0f", "1\ufe0f", "\u26a0\ufe0f\ufe0f", "\u4e00\ufe00", "x\U000e0141"):
        assert one_line(hidden) != hidden
    assert one_line("e" + "\u0301" * 9) == "e" + "\u0301" * 4 + "\\u0301" * 5


def test_the_console_spells_out_what_steers(capsys: pytest.CaptureFixture[str]) -> None:
    console.line(EVIL)
    console.note(EVIL)
    console.raw(EVIL)
    console.error(EVIL)
    screen = console.output()
    screen.print(EVIL)
    screen.print(EVIL, style="bold")
    found = capsys.readouterr()
    assert_harmless(found.out + found.err)
    assert "red" in found.out


def test_messages_over_grpc_are_harmless() -> None:
    assert_harmless(shown(EVIL * 100))
    assert len(shown(EVIL * 1_000)) <= 1_000
