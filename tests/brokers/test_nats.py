"""Events over a real JetStream: stored in order, through failures of either side, without secrets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import Nats, cluster, library, program, stored
from observing import SMALL
from picture import picture
from servers import ROOT, eventually

import spanbus
from spanbus.errors import BackendError, InputError
from spanbus.integrations import nats_stream
from spanbus.testing import Receiver


@pytest.fixture
def nats(tmp_path: Path) -> Generator[Nats]:
    library("nats")
    server = Nats(tmp_path / "nats")
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a program whose telemetry goes nowhere."""
    return {
        "SPANBUS_STATE_DIR": str(tmp_path / "state"),
        "SPANBUS_LOCAL": "off",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "PYTHONPATH": str(ROOT / "src"),
    }


PUBLISHER = """
import sys, time
import spanbus
from spanbus.integrations.nats import carry
url, number, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
bus = spanbus.WorkflowEventBus()
carrier = carry(bus, url)
for n in range(number):
    bus.publish_nowait("workflow.phase.started", {"number": n}, run_id=f"run-{n % 7}", phase="p")
    if pause_s and n % 20 == 0:
        print(n, flush=True)
        time.sleep(pause_s)
print(number - 1, flush=True)
"""


def publisher(url: str, number: int, pause_s: float, env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, url, str(number), str(pause_s)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def spanbus_command(
    env: dict[str, str], *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spanbus", *words],
        env={**os.environ, **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_stored(url: str, number: int, *, doubled: bool = False) -> None:
    """Every event is there, each run's in their order; those that are there twice only where ``doubled`` allows it."""
    runs: dict[str, list[tuple[str, str]]] = {}
    for subject, line in stored(url):
        runs.setdefault(str(line["run_id"]), []).append((str(line["event_id"]), subject))
    assert sum(len({event_id for event_id, _ in found}) for found in runs.values()) == number
    for found in runs.values():
        assert len({subject for _, subject in found}) == 1, "a run lies in one bucket"
        assert found[0][1].startswith("spanbus.v1.p.")
        ids = list(dict.fromkeys(event_id for event_id, _ in found))
        assert ids == sorted(ids), "in the order in which they were published"
        if not doubled:
            assert len(ids) == len(found)


IN_A_LOOP = """
import sys
import anyio, spanbus
from spanbus.integrations.nats import carry

async def main():
    async with spanbus.WorkflowEventBus() as bus:
        with carry(bus, sys.argv[1]) as carrier:
            await bus.publish("workflow.started", {"workflow": "w"}, run_id="r")
            assert carrier.flush(20.0)
    print(carrier.state().stored)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_program_with_an_event_loop_closes_its_connection(
    nats: Nats, environment: dict[str, str], backend: str
) -> None:
    nats_stream.set_up(nats.url, SMALL)
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", IN_A_LOOP, nats.url, backend],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_without_nats_events_wait_and_the_next_process_sends_them(
    nats: Nats, environment: dict[str, str]
) -> None:
    nats_stream.set_up(nats.url, SMALL)
    nats.kill()
    with publisher(nats.url, 5_000, 0.0, environment) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    [line] = errors.strip().splitlines()
    assert "5000 records wait in" in line and nats.url in line and "`spanbus flush`" in line
    waiting = spanbus_command(environment, "flush", "--wait", "1")
    assert waiting.returncode == 1
    assert "5000 events wait for NATS" in waiting.stderr + waiting.stdout
    nats.start()
    flushed = spanbus_command(
        {**environment, "SPANBUS_NATS_URL": nats.url}, "flush", "--wait", "30"
    )
    assert flushed.returncode == 0, flushed.stderr
    check_stored(nats.url, 5_000)


def test_a_server_that_is_killed_twice_loses_and_doubles_nothing(
    nats: Nats, environment: dict[str, str]
) -> None:
    nats_stream.set_up(nats.url, SMALL)
    with publisher(nats.url, 4_000, 0.02, environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) in (1_000, 2_400):
                nats.kill()
                nats.start()
        process.wait(60)
        assert process.returncode == 0
    spanbus_command({**environment, "SPANBUS_NATS_URL": nats.url}, "flush", "--wait", "30")
    check_stored(nats.url, 4_000)


def test_three_servers_whose_leader_is_killed_lose_and_double_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    library("nats")
    servers = cluster(tmp_path)
    try:
        for server in servers:
            server.start()
        urls = ",".join(server.url for server in servers)
        wanted = replace(SMALL, replicas=3)

        def made() -> object:
            try:
                return nats_stream.set_up(urls, wanted)
            except BackendError:  # they have not found one another yet
                return None

        eventually(made, 60.0)
        assert nats_stream.status(urls).replicas == 3
        with publisher(urls, 3_000, 0.01, environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) == 1_000:
                    leader = nats_stream.status(urls).leader
                    [killed] = [each for each in servers if each.folder.name == leader]
                    killed.kill()
            process.wait(60)
        assert process.returncode == 0
        env = {**environment, "SPANBUS_NATS_URL": urls}
        assert spanbus_command(env, "flush", "--wait", "40").returncode == 0
        alive = next(each for each in servers if each is not killed)
        check_stored(alive.url, 3_000)
    finally:
        for server in servers:
            server.kill()


def test_a_publisher_that_is_killed_loses_nothing(nats: Nats, environment: dict[str, str]) -> None:
    nats_stream.set_up(nats.url, SMALL)
    with publisher(nats.url, 100_000, 0.005, environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 2_000:
                process.send_signal(signal.SIGKILL)
                break
        process.wait(20)
    flushed = spanbus_command(
        {**environment, "SPANBUS_NATS_URL": nats.url}, "flush", "--wait", "30"
    )
    assert flushed.returncode == 0, flushed.stderr
    numbers = {int(str(line["payload"]["number"])) for _, line in stored(nats.url)}  # type: ignore[index]
    assert len(numbers) == max(numbers) + 1 and max(numbers) >= 2_000
    check_stored(nats.url, len(numbers), doubled=True)


def test_secrets_are_not_in_the_stream(
    nats: Nats, environment: dict[str, str], tmp_path: Path
) -> None:
    nats_stream.set_up(nats.url, SMALL)
    secret = "gh" + "p_" + "a1B2" * 9
    (tmp_path / "spanbus.toml").write_text(
        "[workflows.nightly]\nphases = [\n"
        f'  {{ name = "login", run = ["sh", "-c", "echo token {secret}; exit 3"] }},\n'
        '  { name = "build", run = "true" },\n]\n'
    )
    env = {**environment, "SPANBUS_NATS_URL": nats.url}
    run = spanbus_command(env, "run", "nightly", cwd=tmp_path)
    assert run.returncode == 1, run.stderr
    spanbus_command(env, "flush", "--wait", "30")
    lines = [line for _, line in stored(nats.url)]
    assert secret not in json.dumps(lines)
    types = [str(line["event_type"]) for line in lines]
    assert types[0] == "workflow.started" and types[-1] == "workflow.failed"
    assert lines[0]["metadata"] == {"telemetry": "here"}
    assert lines[0]["payload"]["workflow"] == "nightly"  # type: ignore[index]


def test_producers_in_any_language(nats: Nats, environment: dict[str, str], tmp_path: Path) -> None:
    """A shell without any client, Go, CloudEvents: each gives three spans with the right results."""
    nats_stream.set_up(nats.url, SMALL)
    (tmp_path / "produce.sh").write_text(SHELL)
    shell = subprocess.run(
        ["bash", str(tmp_path / "produce.sh"), str(nats.port)],
        timeout=30,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.count('"stream":"SPANBUS"') == 6, shell.stdout
    _publish(nats.url, "spanbus.v1.event.cloudy.c-1", CLOUD_EVENTS)
    subprocess.run([program("nats-producer"), nats.url], timeout=30, check=True)
    lines = stored(nats.url)
    assert len(lines) == 18
    with Receiver() as collector:
        env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "reader")}
        with spanbus.open_runtime_sync(env=env) as runtime:
            for _, line in lines:
                runtime.handle.feed(line)
            assert runtime.flush()
            assert runtime.handle.state().errors == 0
        assert picture(collector.spans()) == [
            "RUN cloudy failure ValueError",
            "  lint success",
            "  tests failure ValueError",
            "RUN gopher failure *exec.ExitError",
            "  lint success",
            "  tests failure *exec.ExitError",
            "RUN nightly failure ValueError",
            "  lint success",
            "  tests failure ValueError",
        ]
        nightly = next(span for span in collector.spans() if span.name == "RUN nightly")
        assert nightly.trace_id.hex() == "7" * 32 and nightly.parent_span_id.hex() == "9" * 16


def _publish(url: str, subject: str, events: list[dict[str, object]]) -> None:
    """As any plain client: one acknowledged before the next."""
    import asyncio

    import nats

    async def publish() -> None:
        connection = await nats.connect(url)
        for event in events:
            headers = {"Nats-Msg-Id": str(event["id"])}
            await connection.jetstream().publish(
                subject, json.dumps(event).encode(), headers=headers
            )
        await connection.close()

    asyncio.run(publish())


def _cloud_event(
    number: int, kind: str, phase: str | None = None, **data: object
) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"c-{number}",
        "type": kind,
        "source": "/ci",
        "time": f"2026-01-01T00:00:0{number}Z",
        "datacontenttype": "application/json",
        "runid": "c-1",
        **({"phase": phase} if phase else {}),
        "data": data,
    }


CLOUD_EVENTS = [
    _cloud_event(1, "workflow.started", workflow="cloudy"),
    _cloud_event(2, "workflow.phase.started", "lint"),
    _cloud_event(3, "workflow.phase.completed", "lint", success=True),
    _cloud_event(4, "workflow.phase.started", "tests"),
    _cloud_event(
        5,
        "workflow.phase.failed",
        "tests",
        result="failure",
        error_type="ValueError",
        error="2 of 40",
    ),
    _cloud_event(6, "workflow.failed", workflow="cloudy", error_type="ValueError", error="tests"),
]
SHELL = r"""
exec 3<>"/dev/tcp/127.0.0.1/$1"
read -r info <&3
printf 'CONNECT {"verbose":false,"headers":true}\r\nSUB answers.* 1\r\n' >&3
said=0
say() { # subject id line, acknowledged before the next one
    said=$((said + 1))
    local head="NATS/1.0\r\nNats-Msg-Id: $2\r\n\r\n" header
    header=$(printf "$head." | wc -c); header=$((header - 1))
    printf 'HPUB %s answers.%d %d %d\r\n' "$1" "$said" "$header" $((header + ${#3})) >&3
    printf "$head" >&3; printf '%s\r\n' "$3" >&3
    read -r answer <&3; read -r answer <&3; printf '%s\n' "$answer"
}
run() { # workflow subject
    say "$2" "$1-1" "{\"event_type\":\"workflow.started\",\"event_id\":\"$1-1\",\"time\":\"2026-01-01T00:00:00Z\",\"run_id\":\"$1-1\",\"traceparent\":\"00-77777777777777777777777777777777-9999999999999999-01\",\"payload\":{\"workflow\":\"$1\"}}"
    local n=1 type phase more
    while read -r type phase more; do
        n=$((n + 1))
        [ "$phase" = - ] && phase= || phase="\"phase\":\"$phase\","
        say "$2" "$1-$n" "{\"event_type\":\"workflow.$type\",\"event_id\":\"$1-$n\",\"time\":\"2026-01-01T00:00:0${n}Z\",\"run_id\":\"$1-1\",$phase\"payload\":$more}"
    done
}
run nightly spanbus.v1.event.nightly.nightly-1 <<'END'
phase.started lint {}
phase.completed lint {"success":true,"duration":1}
phase.started tests {}
phase.failed tests {"success":false,"result":"failure","error_type":"ValueError","error":"2 of 40 failed"}
failed - {"workflow":"nightly","success":false,"result":"failure","error_type":"ValueError","error":"tests"}
END
"""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda url: nats_stream.set_up("nats://", SMALL), "must be the URL of a NATS server"),
        (lambda url: nats_stream.set_up(url, nats_stream.Wanted("a b")), "is no name of a stream"),
        (lambda url: nats_stream.set_up("nats://127.0.0.1:1", SMALL), "nats://127.0.0.1:1: "),
        (lambda url: nats_stream.set_up(url, SMALL, credentials="/no/such"), "No such file"),
        (
            lambda url: nats_stream.status(url),
            "there is no stream SPANBUS; `spanbus nats setup` makes it",
        ),
        (
            lambda url: nats_stream.set_up(url, nats_stream.Wanted(max_bytes=2**60)),
            "give less by --max-bytes",
        ),
        (
            lambda url: nats_stream.set_up(url, nats_stream.Wanted(replicas=3, max_bytes=2**20)),
            "JetStream refuses: replicas > 1",
        ),
    ],
)
def test_bad_input_is_one_line(call: object, words: str, nats: Nats) -> None:
    with pytest.raises((InputError, BackendError)) as refused:
        call(nats.url)  # type: ignore[operator]
    assert words in str(refused.value) and "\n" not in str(refused.value), str(refused.value)


def test_what_carry_takes() -> None:
    library("nats")
    from spanbus.integrations.nats import carry

    bus = spanbus.WorkflowEventBus()
    for call, words in (
        (lambda: carry(object(), "nats://a"), "carry takes a WorkflowEventBus, not object"),
        (lambda: carry(bus, "a:4222"), "must be the URL of a NATS server"),
        (lambda: carry(bus, "nats://a", credentials="/no/such"), "No such file"),
        (lambda: carry(bus, "nats://a", stream="a.b"), "is no name of a stream"),
    ):
        with pytest.raises(InputError) as refused:
            call()
        assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_server_without_jetstream(tmp_path: Path) -> None:
    library("nats")
    server = Nats(tmp_path / "plain", jetstream=False).start()
    try:
        with pytest.raises(
            BackendError, match="JetStream is not enabled there; start nats-server with -js"
        ):
            nats_stream.set_up(server.url, SMALL)
    finally:
        server.kill()


def test_nothing_is_said_to_a_server_without_tls_where_the_url_asks_for_it(tmp_path: Path) -> None:
    library("nats")
    heard: list[bytes] = []
    greeting = b'INFO {"server_id":"a","version":"2.11.0","headers":true,"auth_required":true}\r\n'

    def server(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(greeting)
                    while piece := connection.recv(65_536):
                        heard.append(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=server, args=(listener,), daemon=True).start()
        url = f"tls://ci:hunter2@127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BackendError, match="does not speak TLS, and tls:// asks for it"):
            nats_stream.set_up(url, SMALL)
        listener.shutdown(socket.SHUT_RDWR)
    assert heard == []


def test_a_stream_whose_subjects_another_one_has(nats: Nats) -> None:
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.CREATE.AUDIT", {"name": "AUDIT", "subjects": ["spanbus.>"]})
    with pytest.raises(BackendError, match=r"overlap.*: AUDIT; name that one with --stream"):
        nats_stream.set_up(nats.url.replace("nats:", "NATS:"), SMALL)


def test_a_stream_with_other_settings_and_the_commands(
    nats: Nats, environment: dict[str, str]
) -> None:
    def setup(*words: str) -> subprocess.CompletedProcess[str]:
        return spanbus_command(
            environment, "nats", "setup", nats.url, "--max-bytes", "64MiB", *words
        )

    assert setup("--check").returncode == 1
    assert (setup().returncode, setup("--check").returncode) == (0, 0)
    changed = setup("--max-age", "1h")
    assert changed.returncode == 0 and "max_age is 86400000000000" in changed.stdout
    assert setup("--max-age", "soon").returncode == 2
    assert setup("--max-bytes", "much").returncode == 2
    found = spanbus_command(
        {**environment, "SPANBUS_NATS_URL": nats.url}, "nats", "status", "--json"
    )
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert (document["stream"], document["messages"], document["differences"]) == ("SPANBUS", 0, [])
    assert spanbus_command(environment, "nats", "status").returncode == 2, "which NATS?"

    other = {**SMALL.config(), "name": "OTHER", "retention": "workqueue"}
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.DELETE.SPANBUS", None)
        asking.ask("STREAM.CREATE.OTHER", other)
    refused = setup("--stream", "OTHER")
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 1
    assert "retention is 'workqueue', wanted 'limits', which cannot be changed" in refused.stderr


def test_rights_that_are_missing_are_told_and_the_run_goes_on(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    library("nats")
    folder = tmp_path / "rights"
    folder.mkdir()
    (folder / "nats.conf").write_text(
        'jetstream {}\nauthorization { users = [ { user: "ci", password: "hunter2",'
        ' permissions: { publish: ["other.>"], subscribe: ["_INBOX.>"] } } ] }\n'
    )
    server = Nats(folder, "-c", str(folder / "nats.conf")).start()
    try:
        url = server.url.replace("//", "//ci:hunter2@")
        (tmp_path / "spanbus.toml").write_text(
            '[workflows.w]\nphases = [{ name = "a", run = "true" }]\n'
        )
        env = {**environment, "SPANBUS_NATS_URL": url, "SPANBUS_EXIT_TIMEOUT_S": "3"}
        run = spanbus_command(env, "run", "w", "--quiet", cwd=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "ermissions" in run.stderr and "hunter2" not in run.stderr, run.stderr
    finally:
        server.kill()


def test_a_run_without_nats_goes_on(environment: dict[str, str], tmp_path: Path) -> None:
    library("nats")
    (tmp_path / "spanbus.toml").write_text(
        '[workflows.w]\nphases = [{ name = "a", run = "true" }]\n'
    )
    env = {**environment, "SPANBUS_NATS_URL": "nats://127.0.0.1:1"}
    run = spanbus_command(env, "run", "w", "--quiet", cwd=tmp_path)
    assert run.returncode == 0
    assert len(run.stderr.strip().splitlines()) == 1, run.stderr
    wrong = spanbus_command({**env, "SPANBUS_NATS_URL": "http://a"}, "run", "w", cwd=tmp_path)
    assert wrong.returncode == 0 and "SPANBUS_NATS_URL" in wrong.stderr, "told, and left out"


def test_events_that_no_disk_took_and_nobody_came_for_are_counted_at_the_end(
    tmp_path: Path,
) -> None:
    library("nats")
    from spanbus.integrations.nats import Carrier

    (tmp_path / "events").write_text("not a folder")
    bus = spanbus.WorkflowEventBus()
    with Carrier(tmp_path, ["nats://127.0.0.1:1"], None, "SPANBUS", None).carrying(bus) as carrier:
        for number in range(3):
            bus.publish_nowait("app.event", {"number": number}, run_id="r")
        assert (carrier.state().waiting, carrier.state().dropped) == (3, {})
    assert (carrier.state().waiting, carrier.state().dropped) == (0, {"no_spool": 3})
