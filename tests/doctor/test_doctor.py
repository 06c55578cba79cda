"""`spanbus doctor`: each problem is one line, whatever answers at an address."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import cast

import anyio
import grpc
import pytest
from authority import Authority
from command_line import Cli
from hostile import Reply, ScriptedServer, html, http

from spanbus._delivery.outcomes import Delivered
from spanbus._doctor import asking, servers
from spanbus._doctor.asking import Server
from spanbus._doctor.collector import identify_listener
from spanbus._doctor.doctor import Examination
from spanbus._doctor.findings import State, not_configured, ok
from spanbus._runtime import STORE_NAME
from spanbus._semantics import names
from spanbus.testing import Answer, GrpcReceiver, Receiver

Json = dict[str, object]


@pytest.fixture
def closed() -> Generator[str]:
    """The URL of a reserved port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def checks(document: Json) -> dict[str, Json]:
    """Return the findings by check; of several for one check the last."""
    return {str(each["check"]): each for each in cast("list[Json]", document["checks"])}


def examined(cli: Cli, *arguments: str, backend: str = "asyncio", **env: str) -> Json:
    """Return the output of ``--json`` without starting a process."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    examination = Examination(
        cli.environment(env),
        jaeger=options.get("--jaeger"),
        prometheus=options.get("--prometheus"),
        alertmanager=options.get("--alertmanager"),
        timeout_s=float(options.get("--timeout", 20)),
    )
    before = Path.cwd()
    os.chdir(cli.folder)
    try:
        return cast(
            "Json",
            json.loads(json.dumps(anyio.run(examination.report, backend=backend).document())),
        )
    finally:
        os.chdir(before)


def line(cli: Cli, check: str, *arguments: str, code: int, **env: str) -> Json:
    document = examined(cli, *arguments, **env)
    assert document["good"] is (code == 0), document
    return checks(document)[check]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_without_settings_every_check_is_ok(cli: Cli) -> None:
    done = cli("doctor", "--timeout", "2")
    assert (done.code, done.err) == (0, "")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is not set" in done.out
    assert "wrong" not in done.out


def test_every_setting_is_shown_with_its_origin(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text('lifetime = "service"\n')
    document = cli("doctor", "--json", env={"SPANBUS_EVENTS": "log"}).json()
    rows = {str(row["name"]): row for row in cast("list[Json]", document["settings"])}
    assert rows["lifetime"] == {
        "name": "lifetime",
        "value": "service",
        "origin": f"{cli.folder}/spanbus.toml:1",
    }
    assert (rows["events"]["value"], rows["events"]["origin"], rows["local"]["origin"]) == (
        "log",
        "SPANBUS_EVENTS",
        "default",
    )
    text = cli("doctor", env={"SPANBUS_EVENTS": "log"}).out
    assert "(SPANBUS_EVENTS)" in text


def test_all_errors_of_the_settings_are_reported_at_once(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text('evnts = "span"\nexit_timeout_s = "never"\n')
    done = cli(
        "doctor", "--json", env={"SPANBUS_LOCAL": "perhaps", "OTEL_EXPORTER_OTLP_PROTOCOL": "http"}
    )
    assert done.code == 1
    said = [
        str(each["message"])
        for each in cast("list[Json]", done.json()["checks"])
        if each["check"] == "settings"
    ]
    assert len(said) == 4
    for part in (
        "spanbus.toml:1",
        "did you mean events",
        "spanbus.toml:2",
        "SPANBUS_LOCAL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ):
        assert any(part in text for text in said), part


def test_a_settings_file_that_is_not_toml_is_wrong(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text("[workflows\n")
    assert "is not TOML" in str(line(cli, "settings", code=1)["message"])


def test_a_workflow_that_cannot_be_built_is_wrong(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text(
        '[workflows.good]\nphases = [ { name = "a", run = "true" } ]\n[workflows.bad]\nphases = [ { name = "a" } ]\n'
    )
    found = line(cli, "workflows", code=1)
    assert "spanbus.toml:4" in str(found["message"])


def test_a_missing_dialect_file_is_wrong(cli: Cli) -> None:
    (cli.folder / "spanbus.toml").write_text('dialects = { mine = "mine.toml" }\n')
    assert "mine.toml" in str(line(cli, "dialects", code=1)["message"])


def test_a_misspelt_variable_is_a_warning(cli: Cli) -> None:
    found = line(cli, "settings", code=0, OTEL_EXPORTER_OLTP_ENDPOINT="http://x:4318")
    assert found["state"] == "warning"
    assert "did you mean OTEL_EXPORTER_OTLP_ENDPOINT" in str(found["todo"])


@pytest.mark.parametrize(
    ("env", "check", "said"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "telemetry", "nothing is recorded"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "telemetry", "no trace is kept"),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "telemetry",
            "no trace is kept",
        ),
        ({"SPANBUS_LIFETIME": "service"}, "temporality", "never passes 1"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "lowmemory"},
            "temporality",
            "lives on",
        ),
    ],
)
def test_probably_unintended_settings_are_warnings(
    cli: Cli, env: dict[str, str], check: str, said: str
) -> None:
    found = line(cli, check, code=0, **env)
    assert found["state"] == "warning"
    assert said in str(found["message"])


def test_a_preference_without_effect_on_one_shot_runs_is_no_warning(cli: Cli) -> None:
    found = line(
        cli,
        "temporality",
        code=0,
        SPANBUS_LIFETIME="run",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
    )
    assert found["state"] == "ok"


def test_no_secret_is_shown(cli: Cli, closed: str) -> None:
    url = closed.replace("//", "//me:hunter22@")
    env = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20s3cr3t-tok3n-1234567",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{url}?key=s3cr3tk3y",
        "OTEL_RESOURCE_ATTRIBUTES": "token=ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    }
    for arguments in (["doctor"], ["doctor", "--json"]):
        done = cli(*arguments, "--jaeger", url, "--prometheus", f"{url}/?token=hunter22", env=env)
        assert done.code == 1
        for secret in ("hunter22", "s3cr3t", "ghp_", "Basic "):
            assert secret not in done.out + done.err


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://a b", "http://h:port"])
def test_an_invalid_url_is_one_line_and_exit_code_two(cli: Cli, url: str) -> None:
    done = cli("doctor", "--prometheus", url)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("spanbus: --prometheus")
    assert len(done.err.splitlines()) == 1


# --- this machine -----------------------------------------------------------------------------------------------------


def test_a_state_directory_that_is_a_file_is_wrong(cli: Cli) -> None:
    (cli.folder / "state").write_text("")
    assert "SPANBUS_STATE_DIR" in str(line(cli, "state_dir", code=1)["message"])


def test_a_backlog_without_an_endpoint_is_a_warning(cli: Cli, closed: str) -> None:
    assert cli("exec", "--", "true", env={"OTEL_EXPORTER_OTLP_ENDPOINT": closed}).code == 0
    found = line(cli, "spool", code=0)
    assert found["state"] == "warning"
    assert "wait for a collector" in str(found["message"])
    assert "spanbus flush" in str(found["todo"])


def test_a_segment_of_a_newer_spanbus_is_wrong(cli: Cli, closed: str) -> None:
    cli("exec", "--", "true", env={"OTEL_EXPORTER_OTLP_ENDPOINT": closed})
    [segment, *_] = (cli.folder / "state" / "spool").glob("*.seg")
    data = bytearray(segment.read_bytes())
    at = data.index((1).to_bytes(2, "little"))
    data[at] = 99
    segment.write_bytes(data)
    assert "newer spanbus" in str(line(cli, "spool", code=1)["message"])


def test_a_store_of_a_newer_spanbus_is_wrong_and_unchanged(cli: Cli) -> None:
    cli("exec", "--", "true")
    path = cli.folder / "state" / STORE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    found = line(cli, "store", code=1)
    assert "schema 99" in str(found["message"])
    assert "update spanbus" in str(found["todo"])


def test_a_store_that_is_not_a_database_is_wrong(cli: Cli) -> None:
    (cli.folder / "state").mkdir()
    (cli.folder / "state" / STORE_NAME).write_text(
        "no database, but long enough to be looked at" * 100
    )
    assert "no store that can be read" in str(line(cli, "store", code=1)["message"])


def test_the_number_of_stored_runs_is_shown(cli: Cli) -> None:
    for _ in range(2):
        cli("exec", "--", "true", env={"SPANBUS_EXIT_TIMEOUT_S": "20"})
    assert "holds 2 runs" in str(line(cli, "store", code=0)["message"])


# --- the collector ----------------------------------------------------------------------------------------------------


def test_a_working_collector_is_ok(cli: Cli) -> None:
    with Receiver() as collector:
        done = cli(
            "doctor", "--json", "--timeout", "1", env={**collector.env, "SPANBUS_EVENTS": "both"}
        )
        found = checks(done.json())
        assert [
            found[f"collector.{signal}"]["state"] for signal in ("traces", "metrics", "logs")
        ] == ["ok", "ok", "ok"]
        [span] = collector.spans()
    assert span.name == names.DOCTOR_SPAN


def test_the_test_telemetry_is_marked(cli: Cli) -> None:
    with Receiver() as collector:
        cli("doctor", "--json", "--timeout", "1", env=collector.env)
        telemetry = [received for received in collector.requests if received.signal]
    bodies = [received.body for received in telemetry]
    assert sorted(received.signal for received in telemetry) == [
        "metrics",
        "metrics",
        "metrics",
        "traces",
    ]
    assert all(names.DOCTOR_SERVICE.encode() in body for body in bodies)
    assert not any(b"cicd.pipeline" in body or b"spanbus.phase" in body for body in bodies)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_doctor_runs_on_every_event_loop(cli: Cli, backend: str) -> None:
    with Receiver() as collector, prometheus_that_says() as prometheus:
        found = checks(
            examined(
                cli,
                "--timeout",
                "1",
                "--prometheus",
                prometheus.url,
                backend=backend,
                **collector.env,
            )
        )
    assert (
        found["collector.traces"]["state"],
        found["prometheus.rules"]["state"],
        found["prometheus.series"]["state"],
    ) == ("ok", "ok", "wrong")


def test_a_working_collector_over_grpc_is_ok(cli: Cli) -> None:
    with GrpcReceiver() as collector:
        found = line(
            cli,
            "collector.traces",
            "--timeout",
            "1",
            code=0,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
    assert found["state"] == "ok"


def test_an_unreachable_collector_is_wrong_and_nothing_is_lost(cli: Cli, closed: str) -> None:
    found = line(cli, "collector.traces", code=1, OTEL_EXPORTER_OTLP_ENDPOINT=closed)
    assert "Connection refused" in str(found["message"])
    assert "spanbus stack up" in str(found["todo"])
    assert "waits in the spool" in str(found["todo"])


def test_a_partial_success_is_wrong(cli: Cli) -> None:
    with Receiver() as collector:
        collector.answer(Answer(rejected=1, message="too old"))
        document = examined(cli, **collector.env)
    found = checks(document)
    assert "rejected a test trace: too old" in str(found["collector.traces"]["message"])
    assert "rejected test points" in str(found["collector.metrics"]["message"])
    assert (document["good"], "jaeger.trace" in found, "prometheus.series" in found) == (
        False,
        False,
        False,
    )


def test_an_endpoint_of_a_signal_without_its_path_is_reported(cli: Cli) -> None:
    with ScriptedServer(
        html("404 Not Found"), {"/v1/metrics": http(b"", "application/x-protobuf")}
    ) as collector:
        found = line(
            cli,
            "collector.metrics",
            code=1,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.url,
        )
    assert f"it answers at {collector.url}/v1/metrics" in str(found["todo"])


def test_a_repeated_path_is_reported(cli: Cli) -> None:
    with ScriptedServer(
        html("404 Not Found"),
        {
            "/v1/traces": http(b"", "application/x-protobuf"),
            "/v1/traces/v1/traces": html("404 Not Found"),
        },
    ) as collector:
        found = line(
            cli,
            "collector.traces",
            code=1,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/v1/traces",
        )
    assert f"it answers at {collector.url}/v1/traces:" in str(found["todo"])


@pytest.mark.parametrize("given", ["/v1/traces", "/v1/metrics"])
def test_a_repeated_path_is_reported_if_other_paths_need_a_token(
    cli: Cli, up: str, given: str
) -> None:
    found = checks(examined(cli, OTEL_EXPORTER_OTLP_ENDPOINT=f"{up}{given}"))
    for each in ("traces", "metrics"):
        assert f"it answers at {up}/v1/{each}:" in str(found[f"collector.{each}"]["todo"])


def test_grpc_to_the_embedded_backend_is_reported_with_a_remedy(cli: Cli, up: str) -> None:
    found = line(
        cli,
        "collector.traces",
        code=1,
        OTEL_EXPORTER_OTLP_ENDPOINT=up,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )
    assert "this port speaks HTTP" in str(found["todo"])


def test_a_certificate_for_another_name_is_reported(cli: Cli) -> None:
    authority = Authority(cli.folder / "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    with Receiver(tls=context) as receiver:
        found = line(
            cli,
            "collector.traces",
            "--timeout",
            "2",
            code=1,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"https://localhost:{receiver.port}",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority.ca),
        )
    assert "a name that its certificate has" in str(found["todo"])


def test_tls_to_a_port_without_tls_is_reported(cli: Cli) -> None:
    with ScriptedServer(html()) as program:
        found = line(
            cli,
            "collector.traces",
            "--timeout",
            "2",
            code=1,
            OTEL_EXPORTER_OTLP_ENDPOINT=program.url.replace("http:", "https:"),
        )
    assert "speaks no TLS" in str(found["todo"])


def test_a_server_that_needs_a_login_is_reported_with_a_remedy(cli: Cli) -> None:
    with ScriptedServer(html("401 Unauthorized")) as program:
        url = program.url.replace("//", "//me:hunter22@")
        for given, said in ((program.url, "wants a login"), (url, "does not take this login")):
            found = line(cli, "prometheus", "--prometheus", given, code=1)
            assert said in str(found["message"])
            assert "USER:PASSWORD@" in str(found["todo"])
            assert "hunter22" not in str(found)


@pytest.mark.parametrize(
    ("serves", "speaks", "todo"),
    [
        (
            "http+tls",
            "http",
            "this port wants TLS: begin OTEL_EXPORTER_OTLP_ENDPOINT with https://",
        ),
        ("http+tls", "http+tls", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        pytest.param(
            "http",
            "http+tls",
            "this port wants no TLS: begin OTEL_EXPORTER_OTLP_ENDPOINT with http://",
            marks=pytest.mark.slow,  # the server waits for more of what it takes for a request
        ),
        ("grpc+tls", "grpc", "this port wants TLS"),
        ("grpc+tls", "grpc+tls", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ("grpc", "grpc+tls", "this port wants no TLS"),
        (
            "grpc",
            "http",
            "this port speaks gRPC: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or take the port for HTTP (4318)",
        ),
        ("grpc+tls", "http+tls+trust", "this port speaks gRPC"),
        (
            "grpc+tls",
            "http+trust",
            "this port speaks gRPC and wants TLS: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc and begin OTEL_EXPORTER_OTLP_ENDPOINT with https://",
        ),
        (
            "http",
            "grpc",
            "this port speaks HTTP: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or take the port for gRPC (4317)",
        ),
    ],
)
def test_a_port_with_another_protocol_is_reported_with_a_remedy(
    cli: Cli, serves: str, speaks: str, todo: str
) -> None:
    authority = Authority(cli.folder / "authority")
    certificate, key = authority.certificate, authority.key
    with ExitStack() as stack:
        if serves.startswith("grpc"):
            credentials = (
                grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
                if serves.endswith("tls")
                else None
            )
            port = stack.enter_context(GrpcReceiver(credentials=credentials)).port
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            port = stack.enter_context(
                Receiver(tls=context if serves.endswith("tls") else None)
            ).port
        found = line(
            cli,
            "collector.traces",
            "--timeout",
            "10",  # of busy machines
            code=1,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{'https' if 'tls' in speaks else 'http'}://127.0.0.1:{port}",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if speaks.startswith("grpc") else "http/protobuf",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority.ca) if "trust" in speaks else "",
        )
    assert todo in str(found["todo"])


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_unknown_host_is_reported(cli: Cli, protocol: str) -> None:
    found = line(
        cli,
        "collector.traces",
        code=1,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://nothing.invalid:4318",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert "host name" in str(found["todo"])


def test_a_proxy_is_named_without_its_password(cli: Cli, closed: str) -> None:
    proxy = closed.replace("//", "//me:hunter22@")
    done = cli(
        "doctor",
        "--json",
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.invalid:4318",
            "HTTP_PROXY": proxy,
            "http_proxy": proxy,
            "no_proxy": "",
            "NO_PROXY": "",
        },
    )
    found = checks(done.json())["collector.traces"]
    assert f"through the proxy {closed}" in str(found["message"])
    assert "no_proxy=collector.invalid" in str(found["todo"])
    assert "hunter22" not in done.out


@pytest.mark.parametrize(
    ("reply", "said", "todo"),
    [
        (
            html(),
            "is no OTLP receiver: another program answers (HTTP 200, text/html, from nginx)",
            "stop that program",
        ),
        (http(b"pong", "text/plain"), "is no OTLP receiver", "stop that program"),
        (
            http(b"\xff\xff\xff", "application/x-protobuf"),
            "is no OTLP receiver",
            "stop that program",
        ),
        (http(b"[1", "application/json"), "is no OTLP receiver", "stop that program"),
        (html("404 Not Found"), "404", "another program may have this port"),
        (html("401 Unauthorized"), "401", "OTEL_EXPORTER_OTLP_HEADERS"),
        (
            http(
                b"",
                status="302 Found",
                headers={"Location": "http://elsewhere.invalid/login?token=hunter22"},
            ),
            "elsewhere.invalid/login",
            "where it leads",
        ),
        (html("503 Service Unavailable"), "503", "collector's log"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "127.0.0.1", "spool"),
        (b"", "127.0.0.1", "spool"),
        (http(b"\x1b[2J\x1b]0;owned\x07", "text/plain", "400 Bad Request"), "400", ""),
    ],
    ids=[
        "html",
        "text",
        "no protobuf",
        "no json",
        "404",
        "401",
        "redirect",
        "503",
        "ssh",
        "nothing",
        "escapes",
    ],
)
def test_anything_but_a_collector_is_reported_in_one_line(
    cli: Cli, reply: bytes, said: str, todo: str
) -> None:
    with ScriptedServer(reply) as program:
        done = cli("doctor", env={"OTEL_EXPORTER_OTLP_ENDPOINT": program.url})
    assert (done.code, done.err) == (1, "")
    lines = done.out.splitlines()
    [at] = [number for number, text in enumerate(lines) if "collector.traces" in text]
    assert lines[at].startswith("wrong")
    assert said in lines[at]
    assert todo in lines[at + 1]
    assert "hunter22" not in done.out
    assert "\x1b" not in done.out
    assert "\x07" not in done.out


def endless() -> Iterable[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    while True:
        yield b"[" * 65_536


def dribble(says: Callable[[], ScriptedServer], head: bytes) -> Reply:
    """Send ``head``, then a byte every tenth of a second until the test is over."""

    def pieces() -> Iterable[bytes]:
        yield head
        while not says().closing.wait(0.1):
            yield b"a"

    return pieces


def slow(head: bytes) -> ScriptedServer:
    made: list[ScriptedServer] = []
    made.append(ScriptedServer(dribble(lambda: made[0], head)))
    return made[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScriptedServer(endless),
        lambda: slow(b""),
        lambda: slow(b"HTTP/1.1 200 OK\r\nX: "),
        lambda: slow(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"),
    ],
    ids=["endless body", "slow status", "slow headers", "slow body"],
)
def test_a_server_with_an_endless_answer_does_not_block(
    cli: Cli, make: Callable[[], ScriptedServer]
) -> None:
    with make() as program:
        done = cli(
            "doctor",
            "--json",
            "--timeout",
            "1",
            "--jaeger",
            program.url,
            "--prometheus",
            program.url,
            "--alertmanager",
            program.url,
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": program.url},
        )
    assert (done.code, done.err) == (1, "")
    found = checks(done.json())
    assert {
        found[check]["state"]
        for check in (
            "collector.traces",
            "collector.metrics",
            "jaeger",
            "prometheus",
            "alertmanager",
        )
    } == {"wrong"}


def test_an_interrupt_ends_the_command_at_once(cli: Cli) -> None:
    with slow(b"HTTP/1.1 200 OK\r\nX: ") as program:
        process = cli.start(
            "doctor",
            "--timeout",
            "60",
            "--jaeger",
            program.url,
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": program.url},
        )
        while "/api/services" not in program.asked:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


# --- who has the port -------------------------------------------------------------------------------------------------


def test_a_program_on_the_default_port_is_identified_by_its_answer() -> None:
    with ScriptedServer(html()) as program:
        found = identify_listener(program.url, {})
    assert (found.otlp, found.answer is not None and found.answer.status) == (False, 200)


def test_a_collector_on_the_default_port_is_identified_by_its_answer() -> None:
    with Receiver() as collector:
        assert identify_listener(collector.url, {}).otlp


def test_nothing_on_the_default_port_is_shown(closed: str) -> None:
    found = identify_listener(closed, {})
    assert found.answer is None
    assert not isinstance(found.outcome, Delivered)


# --- Jaeger, Prometheus, Alertmanager ---------------------------------------------------------------------------------

OPTIONS = {"jaeger": "--jaeger", "prometheus": "--prometheus", "alertmanager": "--alertmanager"}
DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    "reply",
    [
        html(),
        html("500 Internal Server Error"),
        http(b"null"),
        http(b'{"status": "failure"}'),
        http(b"{"),
        http(DEEP),
        http(b'"\xff\xfe"'),
        http(b""),
        http(
            b"", status="301 Moved Permanently", headers={"Location": "http://elsewhere.invalid/"}
        ),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"HTTP/1.1 abc\r\n\r\n",
        http(
            b'{"status": 1e999, "data": {"version": ["\\u001b[2J"]}, "total": null, "versionInfo": null}',
            headers={"Server": "\x1b[31mred"},
        ),
    ],
    ids=[
        "html",
        "500",
        "null",
        "failure",
        "cut json",
        "deep json",
        "no utf-8",
        "empty",
        "redirect",
        "ssh",
        "nothing",
        "no status",
        "odd types",
    ],
)
def test_anything_but_the_named_server_is_one_wrong_line(cli: Cli, reply: bytes) -> None:
    with ScriptedServer(reply) as program:
        done = cli(
            "doctor",
            "--timeout",
            "3",
            *(word for option in OPTIONS.values() for word in (option, program.url)),
        )
    assert (done.code, done.err) == (1, "")
    found = [text for text in done.out.splitlines() if text.startswith("wrong")]
    assert [text.split()[1] for text in found] == list(OPTIONS)
    assert all(program.url in text for text in found)
    assert "\x1b" not in done.out


def test_an_unreachable_named_server_is_wrong(cli: Cli, closed: str) -> None:
    found = checks(
        cli(
            "doctor", "--json", *(word for option in OPTIONS.values() for word in (option, closed))
        ).json()
    )
    for check in OPTIONS:
        assert (found[check]["state"], closed in str(found[check]["message"])) == ("wrong", True)


def prometheus_that_says(**replies: bytes) -> ScriptedServer:
    """Return a healthy Prometheus, except for the given replies by the last word of a path."""
    good = {
        "buildinfo": http(b'{"status": "success", "data": {"version": "3.15.0"}}'),
        "query": http(b'{"status": "success", "data": {"result": []}}'),
        "rules": http(
            json.dumps(
                {
                    "status": "success",
                    "data": {
                        "groups": [
                            {
                                "rules": [
                                    {"name": name, "health": "ok", "state": "inactive"}
                                    for name in (*servers.RECORDING_RULES, *servers.ALERTS)
                                ]
                            }
                        ]
                    },
                }
            ).encode()
        ),
        "alertmanagers": http(
            b'{"status": "success", "data": {"activeAlertmanagers": [{"url": "http://a/"}]}}'
        ),
        "targets": http(b'{"status": "success", "data": {}}'),
    }
    paths = {"buildinfo": "/api/v1/status/buildinfo", "config": "/api/v1/status/config"}
    return ScriptedServer(
        html("404 Not Found"),
        {paths.get(name, f"/api/v1/{name}"): reply for name, reply in {**good, **replies}.items()},
    )


def test_a_working_prometheus_is_ok(cli: Cli) -> None:
    with prometheus_that_says() as prometheus:
        found = checks(cli("doctor", "--json", "--prometheus", prometheus.url).json())
    assert (
        found["prometheus"]["state"],
        found["prometheus.rules"]["state"],
        found["prometheus.alerting"]["state"],
    ) == ("ok", "ok", "ok")
    assert "3.15.0" in str(found["prometheus"]["message"])


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'{"status": "success"}',
        b'{"status": "success", "data": null}',
        b'{"status": "success", "data": {"groups": 3}}',
        b'{"status": "success", "data": {"groups": [null, {"rules": "x"}, {"rules": [null, 3, {"name": 4}, {"name": ["PhaseSlow"]}]}]}}',
        b"\x00",
        b"<html>",
    ],
)
def test_rules_in_another_format_count_as_missing(cli: Cli, body: bytes) -> None:
    with prometheus_that_says(
        rules=http(body), alertmanagers=http(body), query=http(body), targets=http(body)
    ) as prometheus:
        done = cli("doctor", "--json", "--prometheus", prometheus.url)
    found = checks(done.json())
    assert (
        done.code,
        found["prometheus.rules"]["state"],
        found["prometheus.alerting"]["state"],
    ) == (1, "wrong", "warning")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("alerting:\n  alertmanagers:\n  - scheme: http\n", "has not found the Alertmanager"),
        ("global: {}\n", "has no Alertmanager"),
    ],
)
def test_an_alertmanager_not_discovered_yet_is_not_missing(
    cli: Cli, config: str, says: str
) -> None:
    none = http(b'{"status": "success", "data": {"activeAlertmanagers": []}}')
    yaml = json.dumps({"status": "success", "data": {"yaml": config}}).encode()
    with prometheus_that_says(alertmanagers=none, config=http(yaml)) as prometheus:
        found = checks(cli("doctor", "--json", "--prometheus", prometheus.url).json())
    assert found["prometheus.alerting"]["state"] == "warning"
    assert says in str(found["prometheus.alerting"]["message"])


def test_a_rule_that_cannot_be_evaluated_is_wrong_with_its_reason(cli: Cli) -> None:
    rules = [
        {"name": name, "health": "ok", "state": "inactive"}
        for name in (*servers.RECORDING_RULES, *servers.ALERTS)
    ]
    rules[-1].update(health="err", lastError="many-to-many matching \x1b[31m")
    body = json.dumps({"status": "success", "data": {"groups": [{"rules": rules}]}}).encode()
    with prometheus_that_says(rules=http(body)) as prometheus:
        done = cli("doctor", "--prometheus", prometheus.url)
    assert done.code == 1
    assert f"{servers.ALERTS[-1]}: many-to-many matching" in done.out
    assert "\x1b" not in done.out


def test_a_firing_alert_is_reported(cli: Cli) -> None:
    rules = [
        {"name": name, "health": "ok", "state": "firing" if name == "CollectorDown" else "inactive"}
        for name in (*servers.RECORDING_RULES, *servers.ALERTS)
    ]
    body = json.dumps({"status": "success", "data": {"groups": [{"rules": rules}]}}).encode()
    with prometheus_that_says(rules=http(body)) as prometheus:
        found = line(cli, "prometheus.rules", "--prometheus", prometheus.url, code=0)
    assert "firing now: CollectorDown" in str(found["message"])


def test_a_clock_that_is_an_hour_ahead_is_a_warning(cli: Cli) -> None:
    date = {"Date": formatdate(time.time() + 3_630, usegmt=True)}
    with ScriptedServer(http(b'{"data": [], "total": 0}', headers=date)) as jaeger:
        found = line(cli, "clock", "--jaeger", jaeger.url, code=0)
    assert found["state"] == "warning"
    assert "the clock of jaeger is 1 h 00 min ahead of ours" in str(found["message"])


@pytest.mark.parametrize("date", ["yesterday", "", "Thu, 99 Jan 99999 00:00:00 GMT", "\x00"])
def test_an_invalid_date_header_is_ignored(date: str) -> None:
    assert asking.skew_s(date, time.time()) is None


@pytest.mark.parametrize(
    ("before", "after", "all_there"),
    [
        (None, 3.0, True),
        (None, None, False),
        (0.0, 2.0, False),
        (6.0, 9.0, True),
        (6.0, 8.0, False),
        (6.0, 12.0, True),
        (90.0, 3.0, True),
        (90.0, 2.0, False),
        (6.0, None, False),
    ],
)
def test_points_are_counted_beside_others_and_over_a_restart(
    before: float | None, after: float | None, all_there: bool
) -> None:
    assert servers.counted(before, after) is all_there


def test_the_sum_of_a_metric_is_read_from_an_exposition() -> None:
    name = names.DOCTOR_POINTS_PROMETHEUS
    body = f'# TYPE {name} counter\n{name}{{job="a"}} 3.0\n{name}{{job="b"}} 4.0 1700000000\n{name}x 9\n{name} 1e1\n'.encode()
    with ScriptedServer(http(body, "text/plain")) as program:
        assert servers.points_in_exposition(Server(program.url), {}, 5.0) == 17.0


def test_a_server_beside_an_unrelated_collector_is_a_warning() -> None:
    with prometheus_that_says(
        rules=http(b'{"status": "success", "data": {"groups": []}}')
    ) as prometheus:
        where = Server(prometheus.url)
        assert servers.rules(where, {}, 5.0, ours=False).state is State.WARNING
        assert servers.rules(where, {}, 5.0, ours=True).state is State.WRONG


# --- the embedded backend ---------------------------------------------------------------------------------------------


@pytest.fixture
def up(cli: Cli) -> Generator[str]:
    """The address of a running `spanbus up`."""
    with cli.start("up", "--port", "0") as process:
        assert process.stdout is not None
        url = ""
        for text in process.stdout:
            if text.startswith("OTLP"):
                url = text.split()[1]
            if text.startswith("store"):
                break
        yield url
        process.terminate()
        process.communicate(timeout=20)


def test_every_check_is_ok_with_the_embedded_backend(cli: Cli, up: str) -> None:
    for _ in range(2):
        done = cli("doctor", "--json", env={"OTEL_EXPORTER_OTLP_ENDPOINT": up})
        assert (done.code, done.err) == (0, ""), done.out
        found = checks(done.json())
        for check in (
            "backend",
            "collector",
            "collector.traces",
            "collector.metrics",
            "jaeger.trace",
            "prometheus.series",
        ):
            assert found[check]["state"] == "ok", check


def test_a_running_backend_is_found_without_an_endpoint(cli: Cli, up: str) -> None:
    found = line(cli, "backend", code=0)
    assert (found["state"], up in str(found["message"])) == ("ok", True)


def test_the_test_trace_is_not_listed_as_a_run(cli: Cli, up: str) -> None:
    assert cli("doctor", env={"OTEL_EXPORTER_OTLP_ENDPOINT": up}).code == 0
    assert cli("runs", "--json").out.strip() in ("[]", "")


def test_a_backend_of_another_version_is_a_warning(cli: Cli) -> None:
    health = http(b'{"status": "ok", "version": "0.0.1", "receiver": {"requests": 0}}')
    with ScriptedServer(
        http(b"", "application/x-protobuf"),
        {"/health": health, "/metrics": http(b"", "text/plain")},
    ) as backend:
        found = line(
            cli, "collector", "--timeout", "1", code=1, OTEL_EXPORTER_OTLP_ENDPOINT=backend.url
        )
    assert found["state"] == "warning"
    assert "version 0.0.1" in str(found["message"])


# --- for people and programs ------------------------------------------------------------------------------------------


def test_progress_is_shown_on_stderr_and_stdout_is_one_document(cli: Cli) -> None:
    leader, follower = pty.openpty()
    try:
        with Receiver() as collector, prometheus_that_says() as prometheus:
            environment = cli.environment({**collector.env, "TERM": "xterm"})
            process = subprocess.Popen(
                cli.argv("doctor", "--json", "--timeout", "1", "--prometheus", prometheus.url),
                cwd=cli.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=follower,
            )
            out, _ = process.communicate(timeout=60)
        seen = os.read(leader, 65_536).decode(errors="replace")
    finally:
        os.close(leader)
        os.close(follower)
    assert checks(json.loads(out))["prometheus.series"]["state"] == "wrong"
    assert "waiting for them to come out" in seen


def test_every_check_is_in_the_list_of_checks(cli: Cli) -> None:
    from spanbus._doctor.findings import CHECKS

    with Receiver() as collector:
        document = cli("doctor", "--json", "--timeout", "1", env=collector.env).json()
    assert set(checks(document)) <= set(CHECKS)
    totals = cast("dict[str, int]", document["totals"])
    assert sum(totals.values()) == len(cast("list[Json]", document["checks"]))
    assert document["good"] is (totals["wrong"] == 0)


# --- who is down, who is told -----------------------------------------------------------------------------------------

ALERTMANAGER = """global:
  resolve_timeout: 5m
route:
  receiver: people
receivers:
- name: nobody
- name: watchdog
  webhook_configs:
  - send_resolved: false
    url: http://pings/
- name: people
"""
MAIL = """  email_configs:
  - send_resolved: true
    to: team@example.org
"""


@pytest.mark.parametrize(
    ("config", "state"),
    [
        (ALERTMANAGER, "warning"),
        (ALERTMANAGER + MAIL, "ok"),
        ('route:\n  receiver: "watchdog"\nreceivers:\n- name: "watchdog"\n' + MAIL, "warning"),
        ("route:\n  receiver: a\nreceivers:\n- name: a\n  slack_configs:\n  - channel: x\n", "ok"),
        ("", "ok"),
        ("receivers in another form", "ok"),
    ],
    ids=["nobody", "mail", "only the watchdog", "slack", "not said", "another form"],
)
def test_an_alertmanager_without_receivers_is_reported(cli: Cli, config: str, state: str) -> None:
    body = json.dumps(
        {
            "versionInfo": {"version": "0.34.0"},
            "cluster": {"status": "disabled"},
            "config": {"original": config},
        }
    )
    with ScriptedServer(replies={"/api/v2/status": http(body.encode())}) as program:
        found = line(cli, "alertmanager", "--alertmanager", program.url, code=0)
    assert found["state"] == state
    assert ("tells nobody" in str(found["message"])) == (state == "warning")


def test_a_named_server_where_nothing_listens_is_down(cli: Cli, closed: str) -> None:
    found = line(cli, "jaeger", "--jaeger", closed, code=1)
    assert str(found["message"]).startswith(f"Jaeger is down: {closed}: ")
    assert "refused" in str(found["message"])


def test_a_collector_where_nothing_listens_is_down(cli: Cli, closed: str) -> None:
    found = line(cli, "collector.traces", code=1, OTEL_EXPORTER_OTLP_ENDPOINT=closed)
    assert " is down: " in str(found["message"])


def test_beside_servers_of_the_same_stack_a_missing_one_is_down() -> None:
    missing = not_configured("jaeger", "not found at http://127.0.0.1:16686")
    there = ok("prometheus", "answers")
    found = servers.down({"jaeger": missing, "prometheus": there}, {"prometheus"})
    assert [each.state for each in found] == ["warning", "ok"]
    assert found[0].message.startswith(
        "Jaeger is down: not found at http://127.0.0.1:16686, and prometheus is"
    )
    assert servers.down({"jaeger": missing}, set()) == [missing]
