"""However a program ends, what it published arrives once: at its end, or with the next program on its state directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from spanbus.delivery.signals import Signal
from spanbus.delivery.spool_status import status as spool_status
from spanbus.testing import Answer, GrpcReceiver, Receiver, black_hole

BEYOND_S = 0.25
SLACK_S = 0.35
"""For a loaded machine, and the interpreter's own way out."""

ATTEMPTS = ("a", "b", "c")
"""A machine that is busy with something else gets another chance at the time, and only at the time."""

INTERRUPTED = {1, -signal.SIGINT}
"""Python's own answer to an interrupt in a program given with ``-c`` differs between versions."""

HEAD = """
import os, signal, sys, threading, time
import spanbus
from spanbus.workflow.bus import WorkflowEventBus

handle = spanbus.instrument(WorkflowEventBus())

def begin(run="r"):
    handle.feed({"event_type": "workflow.started", "payload": {"workflow_id": "w", "run_id": run}})

def phases(count, name="p", run="r"):
    for number in range(count):
        step = f"{name}{number}"
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": step, "run_id": run}})
        end = "failed" if number % 10 == 9 else "completed"
        handle.feed({"event_type": f"workflow.config.{end}", "payload": {"step_id": step, "run_id": run, "success": end == "completed"}})

def end(run="r"):
    handle.feed({"event_type": "workflow.completed", "payload": {"workflow_id": "w", "run_id": run, "success": True}})

def ready():
    print(time.monotonic(), flush=True)
"""

NEXT = """
import spanbus, sys
with spanbus.open_runtime_sync() as runtime:
    runtime.wiring()
    sys.exit(0 if runtime.flush(20) else 3)
"""


class Programs:
    """Runs small programs on one state directory against one endpoint."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"

    def env(self, url: str, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SPANBUS_", "TRACE"))}
        return {
            **kept, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "SPANBUS_STATE_DIR": str(self.state), "SPANBUS_LIFETIME": "run", "SPANBUS_LOCAL": "off",
            "PYTHONPATH": os.pathsep.join(sys.path), **more,
        }

    def start(self, url: str, body: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(body)], env=self.env(url, **more), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )

    def run(self, url: str, body: str, **more: str) -> tuple[int, str, str]:
        """Its exit code, output, error output."""
        process = self.start(url, body, **more)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def next_one(self, url: str) -> None:
        """Another program comes by and delivers what waits."""
        done = subprocess.run([sys.executable, "-c", NEXT], env=self.env(url), text=True, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def phases(receiver: Receiver) -> Counter[str]:
    return Counter(span.name for span in receiver.spans() if not span.name.startswith("RUN "))


def expected(count: int, *names: str) -> Counter[str]:
    return Counter(f"{name}{number}" for name in names or ("p",) for number in range(count))


def failures(receiver: Receiver) -> float:
    return receiver.sum_of("spanbus.phase.failures")


def held_s(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[float, str]:
    """How long the program took to end after it had said that it is ready, and its error output."""
    assert process.stdout is not None
    ready = float(process.stdout.readline())
    _, errors = process.communicate(timeout=timeout_s)
    return time.monotonic() - ready, errors


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
def test_everything_is_delivered_before_the_end(programs: Programs, receiver: Receiver, way: str, code: set[int]) -> None:
    found, _, errors = programs.run(receiver.url, f"begin(); phases(200); end()\n{way}")
    assert found in code, errors
    assert "spanbus:" not in errors
    assert phases(receiver) == expected(200)
    assert failures(receiver) == 20
    assert [span.name for span in receiver.spans()].count("RUN w") == 1


def test_the_applications_own_handler_keeps_working(programs: Programs, receiver: Receiver) -> None:
    body = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        begin(); phases(50); end()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    """
    code, _, _ = programs.run(receiver.url, body)
    assert code == 9
    assert phases(receiver) == expected(50)


def test_several_event_loops_one_after_another(programs: Programs, receiver: Receiver) -> None:
    body = """
        import asyncio
        async def one(name):
            begin(name); phases(20, name, name); end(name)
        for name in ("a", "b", "c"):
            asyncio.run(one(name))
    """
    code, _, errors = programs.run(receiver.url, body)
    assert (code, errors) == (0, "")
    assert phases(receiver) == expected(20, "a", "b", "c")


# --- a collector that does not answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["refuses", "hangs", "deaf", "503", "retry later", "black hole", "slow"])
def test_the_exit_is_not_held_and_the_next_program_delivers(programs: Programs, trouble: str) -> None:
    answers = {
        "hangs": Answer.hang(), "deaf": Answer(how="deaf"), "503": Answer(503), "retry later": Answer(429, retry_after_s=30), "slow": Answer(delay_s=5.0),
    }
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver(listening=trouble != "refuses"))
        url = stack.enter_context(black_hole()) if trouble == "black hole" else receiver.url
        if trouble in answers:
            receiver.answer(answers[trouble])
        held: list[float] = []
        for name in ATTEMPTS:
            process = programs.start(url, f"begin({name!r}); phases(200, {name!r}, {name!r}); end({name!r}); ready()")
            took_s, errors = held_s(process)
            held.append(took_s)
            assert process.returncode == 0
            said = [line for line in errors.splitlines() if line]
            assert len(said) == 1, errors
            assert str(programs.state) in said[0]
            assert "spanbus flush" in said[0]
            if took_s < BEYOND_S + SLACK_S:
                break
        assert min(held) < BEYOND_S + SLACK_S
    with Receiver() as back:
        programs.next_one(back.url)
        assert phases(back) == expected(200, *ATTEMPTS[: len(held)])
        assert failures(back) == 20 * len(held)


@pytest.mark.parametrize("trouble", [None, Answer.hang(), Answer(14, "busy")], ids=["healthy", "hangs", "unavailable"])
def test_the_same_over_grpc(programs: Programs, trouble: Answer | None) -> None:
    with GrpcReceiver() as receiver:
        receiver.answer(trouble or Answer())
        held: list[float] = []
        for name in ATTEMPTS:
            body = f"begin({name!r}); phases(200, {name!r}, {name!r}); end({name!r}); ready()"
            took_s, errors = held_s(programs.start(receiver.url, body, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"))
            held.append(took_s)
            assert len(errors.splitlines()) == (1 if trouble is not None else 0), errors
            if took_s < BEYOND_S + SLACK_S:
                break
        assert min(held) < BEYOND_S + SLACK_S
        sent = receiver.spans()
    with Receiver() as back:
        programs.next_one(back.url)
        names = Counter(span.name for span in [*sent, *back.spans()] if not span.name.startswith("RUN "))
        assert names == expected(200, *ATTEMPTS[: len(held)])


# --- ends that run no code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["os._exit(3)", "os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", "os.kill(os.getpid(), signal.SIGKILL)"])
@pytest.mark.parametrize("up", [True, False], ids=["collector up", "collector down"])
def test_a_program_that_is_cut_off_is_completed_by_the_next(programs: Programs, way: str, up: bool) -> None:
    with Receiver(listening=up) as receiver:
        code, _, _ = programs.run(receiver.url, f"begin(); phases(300); end()\n{way}")
        assert code != 0
        receiver.up()
        programs.next_one(receiver.url)
        assert set(phases(receiver)) == set(expected(300))
        assert set(phases(receiver).values()) == {1}
        assert failures(receiver) == 30
        programs.next_one(receiver.url)
        assert sum(phases(receiver).values()) == 300
        assert failures(receiver) == 30


def test_what_was_open_when_it_was_killed_ends_as_killed(programs: Programs, receiver: Receiver) -> None:
    body = """
        begin(); phases(5)
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": "open", "run_id": "r"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    programs.run(receiver.url, body)
    programs.next_one(receiver.url)
    programs.next_one(receiver.url)
    found = {span.name: span for span in receiver.spans()}
    assert phases(receiver) == expected(5) + Counter(["open"])
    for name in ("open", "RUN w"):
        attributes = {attribute.key: attribute.value.string_value for attribute in found[name].attributes}
        assert attributes["error.type"] == "killed"
    assert failures(receiver) == 1


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_failure_that_waited_for_another_attempt_when_it_was_killed_ends_as_that_failure(programs: Programs, receiver: Receiver, attempts: int) -> None:
    secret = "gh" + "p_" + "a1B2" * 9
    body = f"""
        from pathlib import Path
        begin()
        for attempt in range({attempts}):
            handle.feed({{"event_type": "workflow.config.started", "payload": {{"step_id": "tried", "run_id": "r"}}}})
            handle.feed({{"event_type": "workflow.failed", "payload": {{"step_id": "tried", "run_id": "r", "error": "ValueError: no {secret}"}}}})
        spool = Path(os.environ["SPANBUS_STATE_DIR"]) / "spool"
        while sum(file.read_bytes().count(b'"held"') for file in spool.glob("*.seg")) < 1:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    programs.run(receiver.url, body)
    assert secret.encode() not in b"".join(file.read_bytes() for file in (programs.state / "spool").glob("*.seg"))
    programs.next_one(receiver.url)
    found = {span.name: {attribute.key: attribute.value for attribute in span.attributes} for span in receiver.spans()}
    assert (found["tried"]["cicd.pipeline.task.run.result"].string_value, found["tried"]["error.type"].string_value) == ("failure", "ValueError")
    assert found["tried"]["spanbus.phase.attempts"].int_value == attempts
    assert found["RUN w"]["error.type"].string_value == "killed"
    if attempts == 2:
        assert [found[f"tried attempt {number}"]["error.type"].string_value for number in (1, 2)] == ["ValueError"] * 2
    assert failures(receiver) == 1


@pytest.mark.parametrize("collector", ["up", "down"])
def test_what_a_killed_service_left_stays_its_own_whoever_finishes_it(programs: Programs, receiver: Receiver, collector: str) -> None:
    body = """
        begin(); phases(20)
        handle.feed({"event_type": "workflow.config.started", "payload": {"step_id": "open", "run_id": "r"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    url = receiver.url if collector == "up" else "http://127.0.0.1:9"
    programs.run(url, body, OTEL_SERVICE_NAME="checkout", SPANBUS_LIFETIME="service", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging")
    programs.next_one(receiver.url)  # another service
    services = {
        span.name: {attribute.key: attribute.value.string_value for attribute in resource.attributes}
        for request in receiver.requests for resource, span in request.spans_with_resource()
    }
    assert set(services) == {*expected(20), "open", "RUN w"}
    for resource in services.values():
        assert (resource["service.name"], resource["deployment.environment.name"]) == ("checkout", "staging")
    counted = [
        {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
        for request in receiver.requests if request.signal == "metrics"
        for group in ExportMetricsServiceRequest.FromString(request.body).resource_metrics
        for scope in group.scope_metrics for metric in scope.metrics if metric.name == "spanbus.phase.failures"
    ]
    assert [(resource["service.name"], resource["spanbus.lifetime"]) for resource in counted] == [("checkout", "run")]
    assert failures(receiver) == 3


# --- children ---------------------------------------------------------------------------------------------------------


def test_forked_children_deliver_their_own(programs: Programs, receiver: Receiver) -> None:
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
    assert phases(receiver) == expected(20) + expected(50, *"abcd")
    assert failures(receiver) == 2 + 4 * 5
    assert [span.name for span in receiver.spans()].count("RUN w") == 5


def test_forked_children_that_are_cut_off_are_completed(programs: Programs, receiver: Receiver) -> None:
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
    assert phases(receiver) == expected(20) + expected(50, *"abcd")
    assert failures(receiver) == 2 + 4 * 5


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(programs: Programs, receiver: Receiver, method: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(HEAD + textwrap.dedent(f"""
        import multiprocessing

        def work(child):
            begin(child); phases(50, child, child); end(child)

        if __name__ == "__main__":
            begin(); phases(20)
            context = multiprocessing.get_context({method!r})
            children = [context.Process(target=work, args=(child,)) for child in "abcd"]
            for child in children:
                child.start()
            for child in children:
                child.join()
                assert child.exitcode == 0
            end()
    """))
    done = subprocess.run([sys.executable, str(script)], env=programs.env(receiver.url), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    programs.next_one(receiver.url)
    assert phases(receiver) == expected(20) + expected(50, *"abcd")
    assert failures(receiver) == 2 + 4 * 5


def test_many_programs_at_once_on_one_state_directory(programs: Programs, receiver: Receiver) -> None:
    names = [f"n{number}-" for number in range(8)]
    running = [programs.start(receiver.url, f"begin({name!r}); phases(100, {name!r}, {name!r}); end({name!r})") for name in names]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    programs.next_one(receiver.url)
    assert phases(receiver) == expected(100, *names)
    assert failures(receiver) == 80


def test_the_next_program_does_not_send_what_a_living_one_holds(programs: Programs) -> None:
    with Receiver(listening=False) as receiver:
        body = """
            begin(); phases(50)
            spanbus.flush(0.2)
            ready()
            sys.stdin.read()
            end()
        """
        living = subprocess.Popen(
            [sys.executable, "-c", HEAD + textwrap.dedent(body)], env=programs.env(receiver.url), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        assert living.stdout is not None
        living.stdout.readline()
        with Receiver() as other:
            programs.next_one(other.url)
            assert phases(other) == Counter()
        receiver.up()
        living.communicate("", timeout=30)
        programs.next_one(receiver.url)
        assert phases(receiver) == expected(50)


def test_a_process_that_can_have_no_threads_keeps_its_telemetry_for_the_next_one(tmp_path: Path) -> None:
    code = """
import threading, spanbus
threading.stack_size(1 << 47)  # more than there is
bus = spanbus.WorkflowEventBus()
spanbus.instrument(bus)
bus.publish_nowait("workflow.started", {"workflow_id": "w"})
bus.publish_nowait("workflow.completed", {"workflow_id": "w"})
try:
    threading.Thread(target=print).start()
except RuntimeError:
    print("no threads")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "SPANBUS_STATE_DIR": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "no threads\n", "")
    assert spool_status(tmp_path).waiting["remote", Signal.TRACES] == 1


def test_a_program_that_opens_one_runtime_after_another_tells_an_outage_once(tmp_path: Path) -> None:
    code = """
import spanbus
for _ in range(3):
    with spanbus.open_runtime_sync() as runtime:
        runtime.bus.publish_nowait("workflow.started", {"workflow_id": "w"})
        runtime.bus.publish_nowait("workflow.completed", {"workflow_id": "w"})
        assert not spanbus.flush(0.2)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "SPANBUS_STATE_DIR": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
