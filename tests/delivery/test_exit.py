"""However a program ends, its records arrive once: at its exit, or with the next program on its state directory."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from programs import HEAD, Programs, all_of, arrived

from spanbus._delivery.spool_status import status as spool_status
from spanbus._otlp.signals import Signal
from spanbus.testing import Answer, GrpcReceiver, Receiver, black_hole

FOR_EVER = {"OTEL_EXPORTER_OTLP_TIMEOUT": "3600000", "SPANBUS_CI_EXIT_TIMEOUT_S": "3600"}
"""An exit that waited for a dead destination would not end. How short the wait really is stands in bench/."""
ASLEEP_S = 1.0
"""The most that the main thread may have slept after ``ready()``: four times the exit limit, and less than half of what any
longer wait takes. Waiting for a processor is no sleep, so that this holds on a machine with much else to do."""
LATE_REQUESTS = 2
"""The one under way when the program ended, and a last one; the next would come after a pause that an exit must not wait for."""

INTERRUPTED = {1, -signal.SIGINT}
"""Python's own answer to an interrupt in a program given with ``-c`` differs between versions."""


def failures(receiver: Receiver) -> float:
    return receiver.sum_of("spanbus.phase.failures")


def against_nobody(code: str, state: Path) -> subprocess.CompletedProcess[str]:
    """Run a program whose collector refuses connections, with no other environment variables."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "SPANBUS_STATE_DIR": str(state),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def at_the_end(
    process: subprocess.Popen[str], ready: Callable[[], object] = str
) -> tuple[float, str]:
    """Call ``ready`` when the program is ready; return for how long it slept from then to its end, in seconds, and its stderr."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    ready()
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    return float(output), errors


# --- a healthy collector ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "code"),
    [
        ("pass", {0}),
        ("sys.exit(7)", {7}),
        ("raise SystemExit(7)", {7}),
        ("raise RuntimeError('no')", {1}),
        ("raise KeyboardInterrupt", INTERRUPTED),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(30)", INTERRUPTED),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", {0}),
    ],
)
def test_everything_is_delivered_before_exit(
    programs: Programs, receiver: Receiver, way: str, code: set[int]
) -> None:
    body = f"begin(); phases(200); end()\n{way}"
    found, _, errors = programs.run(
        receiver.url, body, SPANBUS_EXIT_TIMEOUT_S="20"
    )  # for a busy machine
    assert found in code, errors
    assert "spanbus:" not in errors
    assert arrived(receiver) == all_of(200)
    assert failures(receiver) == 20
    assert [span.name for span in receiver.spans()].count("RUN w") == 1


def test_the_applications_own_handler_keeps_working(programs: Programs, receiver: Receiver) -> None:
    body = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        begin(); phases(50); end()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    """
    code, _, _ = programs.run(receiver.url, body, SPANBUS_EXIT_TIMEOUT_S="20")
    assert code == 9
    assert arrived(receiver) == all_of(50)


def test_events_of_consecutive_event_loops_are_delivered(
    programs: Programs, receiver: Receiver
) -> None:
    body = """
        import asyncio
        async def one(name):
            begin(name); phases(20, name, name); end(name)
        for name in ("a", "b", "c"):
            asyncio.run(one(name))
    """
    code, _, errors = programs.run(receiver.url, body, SPANBUS_EXIT_TIMEOUT_S="20")
    assert (code, errors) == (0, "")
    assert arrived(receiver) == all_of(20, "a", "b", "c")


# --- a collector that does not answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "job"),
    [
        *[
            (trouble, {})
            for trouble in ("refuses", "hangs", "deaf", "503", "retry later", "black hole", "slow")
        ],
        *[(trouble, {"CI": "true"}) for trouble in ("refuses", "hangs", "503")],
    ],
)
def test_a_broken_collector_does_not_delay_exit_and_the_next_program_delivers(
    programs: Programs, trouble: str, job: dict[str, str]
) -> None:
    answers = {
        "hangs": Answer.hang(),
        "deaf": Answer(how="deaf"),
        "503": Answer(503),
        "retry later": Answer(429, retry_after_s=120),
        "slow": Answer(delay_s=120.0),
    }
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver(listening=trouble != "refuses"))
        url = stack.enter_context(black_hole()) if trouble == "black hole" else receiver.url
        if trouble in answers:
            receiver.answer(answers[trouble])
        before: list[int] = []
        process = programs.start_timed(
            url, "begin('a'); phases(200, 'a', 'a'); end('a'); ready()", **FOR_EVER, **job
        )
        slept_s, errors = at_the_end(process, lambda: before.append(len(receiver.requests)))
        assert process.returncode == 0
        assert slept_s < ASLEEP_S
        [said] = [line for line in errors.splitlines() if line]
        assert str(programs.state) in said
        assert "spanbus flush" in said
        assert len(receiver.requests) - before[0] <= LATE_REQUESTS
    with Receiver() as back:
        programs.next_one(back.url)
        assert arrived(back) == all_of(200, "a")
        assert failures(back) == 20


@pytest.mark.parametrize(
    "trouble", [None, Answer.hang(), Answer(14, "busy")], ids=["healthy", "hangs", "unavailable"]
)
def test_over_grpc_a_broken_collector_does_not_delay_exit(
    programs: Programs, trouble: Answer | None
) -> None:
    with GrpcReceiver() as receiver:
        receiver.answer(trouble or Answer())
        body = "begin('a'); phases(200, 'a', 'a'); end('a'); ready()"
        limits = FOR_EVER if trouble is not None else {"SPANBUS_EXIT_TIMEOUT_S": "20"}
        slept_s, errors = at_the_end(
            programs.start_timed(receiver.url, body, OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **limits)
        )
        assert len(errors.splitlines()) == (1 if trouble is not None else 0), errors
        assert trouble is None or slept_s < ASLEEP_S
        sent = receiver.spans()
    with Receiver() as back:
        programs.next_one(back.url)
        names = Counter(
            span.name for span in [*sent, *back.spans()] if not span.name.startswith("RUN ")
        )
        assert names == all_of(200, "a")


# --- ends that run no code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        "os._exit(3)",
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
@pytest.mark.parametrize("up", [True, False], ids=["collector up", "collector down"])
def test_the_next_program_delivers_the_records_of_a_killed_one(
    programs: Programs, way: str, up: bool
) -> None:
    with Receiver(listening=up) as receiver:
        code, _, _ = programs.run(receiver.url, f"begin(); phases(300); end()\n{way}")
        assert code != 0
        receiver.up()
        programs.next_one(receiver.url)
        assert set(arrived(receiver)) == set(all_of(300))
        assert set(arrived(receiver).values()) == {1}
        assert failures(receiver) == 30
        programs.next_one(receiver.url)
        assert sum(arrived(receiver).values()) == 300
        assert failures(receiver) == 30


def test_open_spans_of_a_killed_program_end_as_killed(
    programs: Programs, receiver: Receiver
) -> None:
    body = """
        begin(); phases(5)
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": "open", "run_id": "r"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    programs.run(receiver.url, body)
    programs.next_one(receiver.url)
    programs.next_one(receiver.url)
    found = {span.name: span for span in receiver.spans()}
    assert arrived(receiver) == all_of(5) + Counter(["open"])
    for name in ("open", "RUN w"):
        attributes = {
            attribute.key: attribute.value.string_value for attribute in found[name].attributes
        }
        assert attributes["error.type"] == "killed"
    assert failures(receiver) == 1


def test_failures_that_a_killed_process_had_counted_for_a_dead_one_are_not_counted_again(
    programs: Programs, receiver: Receiver
) -> None:
    programs.run(receiver.url, "begin(); phases(50); end(); os.kill(os.getpid(), signal.SIGKILL)")
    adopter = """
        from spanbus._runtime import current_runtime
        from spanbus._wiring import leftovers
        finish = leftovers.finish_leftover

        def finish_and_die(*arguments):
            finish(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        leftovers.finish_leftover = finish_and_die
        handle.feed({"event_type": "config.reloaded", "payload": {}})
        current_runtime().flush(60)
    """
    code, _, errors = programs.run(receiver.url, adopter)
    assert code == -signal.SIGKILL, errors
    programs.next_one(receiver.url)
    assert set(arrived(receiver)) == set(all_of(50))
    assert failures(receiver) == 5


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_failed_phase_waiting_for_a_retry_when_killed_ends_as_that_failure(
    programs: Programs, receiver: Receiver, attempts: int
) -> None:
    secret = "gh" + "p_" + "a1B2" * 9
    body = f"""
        from pathlib import Path
        begin()
        for attempt in range({attempts}):
            handle.feed({{"event_type": "workflow.config.started", "payload": {{"step_id": "tried", "run_id": "r"}}}})
            handle.feed({{"event_type": "workflow.failed", "payload": {{"step_id": "tried", "run_id": "r", "error": "ValueError: no {secret}"}}}})
        spool = Path(os.environ["SPANBUS_STATE_DIR"]) / "spool"
        while sum(file.read_bytes().count(b'"held"') for file in spool.glob("*.open")) < 1:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    programs.run(receiver.url, body)
    assert secret.encode() not in b"".join(
        file.read_bytes() for file in (programs.state / "spool").iterdir()
    )
    programs.next_one(receiver.url)
    found = {
        span.name: {attribute.key: attribute.value for attribute in span.attributes}
        for span in receiver.spans()
    }
    assert (
        found["tried"]["cicd.pipeline.task.run.result"].string_value,
        found["tried"]["error.type"].string_value,
    ) == ("failure", "ValueError")
    assert found["tried"]["spanbus.phase.attempts"].int_value == attempts
    assert found["RUN w"]["error.type"].string_value == "killed"
    if attempts == 2:
        assert [
            found[f"tried attempt {number}"]["error.type"].string_value for number in (1, 2)
        ] == ["ValueError"] * 2
    assert failures(receiver) == 1


@pytest.mark.parametrize("collector", ["up", "down"])
def test_recovered_telemetry_keeps_the_resource_of_the_killed_service(
    programs: Programs, receiver: Receiver, collector: str
) -> None:
    body = """
        begin(); phases(20)
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": "open", "run_id": "r"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    url = receiver.url if collector == "up" else "http://127.0.0.1:9"
    programs.run(
        url,
        body,
        OTEL_SERVICE_NAME="checkout",
        SPANBUS_LIFETIME="service",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging",
    )
    programs.next_one(receiver.url)  # another service
    services = {
        span.name: {
            attribute.key: attribute.value.string_value for attribute in resource.attributes
        }
        for request in receiver.requests
        for resource, span in request.spans_with_resource()
    }
    assert set(services) == {*all_of(20), "open", "RUN w"}
    for resource in services.values():
        assert (resource["service.name"], resource["deployment.environment.name"]) == (
            "checkout",
            "staging",
        )
    counted = [
        {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
        for request in receiver.requests
        if request.signal == "metrics"
        for group in ExportMetricsServiceRequest.FromString(request.body).resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        if metric.name == "spanbus.phase.failures"
    ]
    assert [(resource["service.name"], resource["spanbus.lifetime"]) for resource in counted] == [
        ("checkout", "run")
    ]
    assert failures(receiver) == 3


# --- children ---------------------------------------------------------------------------------------------------------


def test_forked_children_deliver_their_own_records(programs: Programs, receiver: Receiver) -> None:
    body = """
        begin(); phases(20)
        children = []
        for child in "abcd":
            pid = os.fork()
            if pid == 0:
                begin(child); phases(50, child, child); end(child)
                sys.exit(0)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        end()
    """
    code, _, errors = programs.run(receiver.url, body)
    assert code == 0, errors
    programs.next_one(receiver.url)
    assert arrived(receiver) == all_of(20) + all_of(50, *"abcd")
    assert failures(receiver) == 2 + 4 * 5
    assert [span.name for span in receiver.spans()].count("RUN w") == 5


def test_records_of_forked_children_that_exit_abruptly_are_delivered(
    programs: Programs, receiver: Receiver
) -> None:
    body = """
        begin(); phases(20)
        for child in "abcd":
            pid = os.fork()
            if pid == 0:
                begin(child); phases(50, child, child); end(child)
                os._exit(0)
            os.waitpid(pid, 0)
        end()
    """
    code, _, errors = programs.run(receiver.url, body)
    assert code == 0, errors
    programs.next_one(receiver.url)
    assert arrived(receiver) == all_of(20) + all_of(50, *"abcd")
    assert failures(receiver) == 2 + 4 * 5


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_children_deliver_their_own_records(
    programs: Programs, receiver: Receiver, method: str, tmp_path: Path
) -> None:
    programs.run_file(
        receiver.url,
        tmp_path / "program.py",
        f"""
        import multiprocessing

        def work(child):
            begin(child); phases(50, child, child); end(child)

        if __name__ == "__main__":
            begin(); phases(20)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=(child,)) for child in "ab"]
            for child in children:
                child.start()
            for child in children:
                child.join()
                assert child.exitcode == 0
            end()
    """,
    )
    programs.next_one(receiver.url)
    assert arrived(receiver) == all_of(20) + all_of(50, *"ab")
    assert failures(receiver) == 2 + 2 * 5


def test_concurrent_programs_share_a_state_directory(
    programs: Programs, receiver: Receiver
) -> None:
    names = [f"n{number}-" for number in range(5)]
    running = [
        programs.start(
            receiver.url, f"begin({name!r}); phases(100, {name!r}, {name!r}); end({name!r})"
        )
        for name in names
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    programs.next_one(receiver.url)
    assert arrived(receiver) == all_of(100, *names)
    assert failures(receiver) == 50


def test_a_program_does_not_send_the_records_of_a_living_one(programs: Programs) -> None:
    with Receiver(listening=False) as receiver:
        body = """
            begin(); phases(50)
            spanbus.flush(0.2)
            print("flushed", flush=True)
            sys.stdin.read()
            end()
        """
        living = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(body)],
            env=programs.env(receiver.url),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert living.stdout is not None
        living.stdout.readline()
        with Receiver() as other:
            programs.next_one(other.url)
            assert arrived(other) == Counter()
        receiver.up()
        living.communicate("", timeout=30)
        programs.next_one(receiver.url)
        assert arrived(receiver) == all_of(50)


def test_a_process_that_cannot_start_threads_leaves_its_records_in_the_spool(
    tmp_path: Path,
) -> None:
    code = """
import threading, spanbus
threading.stack_size(1 << 47)  # more than the address space has
bus = spanbus.WorkflowEventBus()
spanbus.instrument(bus)
bus.publish_nowait("workflow.started", {"workflow_id": "w"})
bus.publish_nowait("workflow.completed", {"workflow_id": "w"})
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("no threads")
"""
    done = against_nobody(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no threads\n", "")
    assert spool_status(tmp_path).waiting["remote", Signal.TRACES] == 1


def test_an_outage_is_reported_once_for_several_runtimes_of_a_program(
    tmp_path: Path,
) -> None:
    code = """
import spanbus
for _ in range(3):
    with spanbus.open_runtime_sync() as runtime:
        runtime.bus.publish_nowait("workflow.started", {"workflow_id": "w"})
        runtime.bus.publish_nowait("workflow.completed", {"workflow_id": "w"})
        assert not spanbus.flush(0.2)
"""
    done = against_nobody(code, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
