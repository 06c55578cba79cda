"""Events of a stream to handlers elsewhere: shared by name, given again when a process dies, given up after five times."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest
from brokers import Nats, stored
from opentelemetry import trace
from servers import ROOT, eventually

import spanbus
from spanbus import Event, WorkflowEventBus
from spanbus.errors import BackendError, InputError
from spanbus.integrations import nats_stream
from spanbus.testing import Receiver

LIMIT_S = 30.0


def line(run: str, number: int, kind: str = "order.paid", **more: object) -> dict[str, object]:
    return {
        "event_type": kind,
        "event_id": f"{run}-{number:03d}",
        "at_ns": 1_767_225_600_000_000_000 + number,
        "run_id": run,
        "payload": {"number": number},
        **more,
    }


def publish(url: str, *messages: Sequence[dict[str, object]] | bytes) -> None:
    """Each message with its lines, acknowledged before the next."""
    import nats

    async def publishing() -> None:
        connection = await nats.connect(url)
        stream = connection.jetstream()
        for lines in messages:
            body = (
                lines
                if isinstance(lines, bytes)
                else b"\n".join(json.dumps(one).encode() for one in lines)
            )
            run = "x" if isinstance(lines, bytes) else lines[0].get("run_id", "x")
            await stream.publish(f"spanbus.v1.event.w.{run}", body)
        await connection.close()

    asyncio.run(publishing())


def test_events_come_to_a_bus_and_to_a_function_in_the_order_of_their_run(nats: Nats) -> None:
    from spanbus.integrations.nats import deliver

    bus, heard, seen = WorkflowEventBus(), [], []
    traces: set[int] = set()

    def plain(event: Event) -> None:
        heard.append((event.run_id, event.payload["number"]))
        traces.add(trace.get_current_span().get_span_context().trace_id)

    async def in_a_loop(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.event_id)

    bus.subscribe("order.paid", plain)
    bus.subscribe("order.paid", in_a_loop)
    traceparent = f"00-{7:032x}-{9:016x}-01"
    publish(nats.url, [line("before", 0)])
    with deliver(nats.url, bus, name="accounts") as one:
        for number in range(0, 30, 3):
            lines = [line("a", each, traceparent=traceparent) for each in range(number, number + 3)]
            publish(
                nats.url,
                lines,
                [line("b", number, traceparent=traceparent)],
                [line("a", 99, "order.seen")],
            )
        eventually(lambda: one.state().delivered == 50, LIMIT_S)
        assert [number for run, number in heard if run == "a"] == list(range(30))
        assert [number for run, number in heard if run == "b"] == list(range(0, 30, 3))
        assert Counter(seen) == Counter(f"{run}-{number:03d}" for run, number in heard)
        assert traces == {7}, "a handler's spans are in the trace of the run"
        eventually(lambda: one.state().in_hand == 0, LIMIT_S)
        assert one.state()[:6] == (50, 0, 0, 0, 0, 0)

    # a function, by type, from the beginning; CloudEvents; what is no event
    taken: list[Event] = []
    cloud = {
        "specversion": "1.0", "id": "c-1", "type": "order.paid", "source": "/shop",
        "time": "2026-01-01T00:00:01Z", "runid": "c", "data": {"number": 1},
    }  # fmt: skip
    publish(nats.url, [cloud], b"no json", b"[1]", b'{"neither": 1}')
    with deliver(nats.url, taken.append, name="audit", types="order.paid", start="all") as two:
        eventually(lambda: sum(two.state()[:5]) == 55, LIMIT_S)
        assert (two.state().delivered, two.state().left_out, two.state().broken) == (42, 10, 3)
    [last] = [each for each in taken if each.event_id == "c-1"]
    assert (last.run_id, last.source, dict(last.payload)) == ("c", "/shop", {"number": 1})
    assert last.at_ns == 1_767_225_601_000_000_000
    # a known name goes on where it was
    publish(nats.url, [line("late", 1)])
    with deliver(nats.url, taken.append, name="audit", start="all") as three:
        eventually(lambda: three.state().delivered == 1, LIMIT_S)
        assert taken[-1].run_id == "late"


PROGRAM = """
import os, sys, threading
from spanbus.integrations.nats import deliver
url, how = sys.argv[1:]
def handle(event):
    print(event.event_id, flush=True)
    if how == "hangs":
        threading.Event().wait()
deliverer = deliver(url, handle, name="shared")
print("ready", flush=True)
sys.stdin.readline()
print(deliverer.close(), flush=True)
"""
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def process(nats: Nats) -> Generator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(how: str) -> subprocess.Popen[str]:
        one = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, nats.url, how],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
        return one

    try:
        yield start
    finally:
        for one in started:
            one.kill()
            one.communicate(timeout=20)


def test_processes_of_one_name_share_the_work(nats: Nats, process: Start) -> None:
    both = [process("works"), process("works")]
    publish(nats.url, *([line(f"r{number}", number)] for number in range(120)))
    consumer = "$JS.API.CONSUMER.INFO.SPANBUS.deliver-shared"
    with nats_stream.Admin(nats.url, None) as asking:

        def over() -> bool:
            found = asking.ask(consumer.removeprefix("$JS.API."), None)
            return found["num_pending"] == found["num_ack_pending"] == 0

        eventually(over, LIMIT_S)
    said = [one.communicate("\n", timeout=20)[0].split() for one in both]
    assert [lines.pop() for lines in said] == ["True", "True"]
    assert all(said), "each had its share"
    assert Counter(said[0] + said[1]) == Counter(f"r{number}-{number:03d}" for number in range(120))


def test_what_a_killed_process_had_comes_to_another(nats: Nats, process: Start) -> None:
    first = process("hangs")
    publish(nats.url, [line("r", 1)], [line("r", 2)], [line("s", 1)])
    assert first.stdout is not None
    assert first.stdout.readline() == "r-001\n"
    taken: list[str] = []
    from spanbus.integrations.nats import deliver

    with deliver(nats.url, lambda event: taken.append(event.event_id), name="shared") as second:
        first.send_signal(signal.SIGKILL)
        eventually(lambda: second.state().delivered == 3, LIMIT_S)
        assert sorted(taken) == ["r-001", "r-002", "s-001"]
        assert taken.index("r-001") < taken.index("r-002"), "in the order of their run"


def test_a_handler_that_raises_five_times(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    from spanbus.integrations.nats import deliver

    calls: list[str] = []

    def handle(event: Event) -> None:
        calls.append(event.event_id)
        if event.event_id == "bad-001" or (
            event.event_id == "bad-002" and calls.count("bad-002") < 3
        ):
            raise ValueError("not today")

    with deliver(nats.url, handle, name="careful") as one:
        publish(
            nats.url,
            [line("bad", 0), line("bad", 1), line("bad", 2)],
            [line("bad", 3)],
            [line("good", 1)],
        )
        eventually(lambda: one.state().delivered == 4, LIMIT_S)
        eventually(lambda: one.state().in_hand == 0, LIMIT_S)
        assert one.state()[:3] == (4, 6, 1)
    assert calls.index("good-001") < len(calls) - 4, "other runs do not wait"
    bad = [each for each in calls if each.startswith("bad")]
    assert bad == ["bad-000", *["bad-001"] * 5, *["bad-002"] * 3, "bad-003"]
    [told] = [one.message for one in caplog.records if "given up" in one.message]
    assert (
        "event bad-001 (order.paid) of run bad is given up after 5 times: ValueError: not today"
        in told
    )
    with deliver(nats.url, handle, name="careful") as again:
        publish(nats.url, [line("good", 2)])
        eventually(lambda: again.state().delivered == 1, LIMIT_S)
        assert calls[-1] == "good-002", "nothing of it comes back"


def test_a_message_that_nobody_lives_to_acknowledge_is_counted(nats: Nats) -> None:
    """As five processes do that die of it: taken five times, never acknowledged."""
    import nats as client

    from spanbus.integrations.nats import deliver

    deliver(nats.url, lambda event: None, name="brave").close()
    publish(nats.url, [line("deadly", 1)])

    async def five_deaths() -> None:
        connection = await client.connect(nats.url)
        inbox = await connection.subscribe("answers")
        for number in range(1, 6):
            await connection.publish(
                "$JS.API.CONSUMER.MSG.NEXT.SPANBUS.deliver-brave", b'{"batch":1}', reply="answers"
            )
            message = await inbox.next_msg(timeout=20)
            assert message.metadata.num_delivered == number
            if number == 5:
                one = await asyncio.to_thread(
                    deliver, nats.url, lambda event: taken.append(event.event_id), name="brave"
                )
            await connection.publish(message.reply, b"-NAK")
            await connection.flush()
        await asyncio.to_thread(eventually, lambda: one.state().lost == 1, LIMIT_S)
        assert taken == []
        await asyncio.to_thread(one.close)
        await connection.close()

    taken: list[str] = []
    asyncio.run(five_deaths())


def test_what_came_in_is_neither_carried_out_nor_recorded(
    nats: Nats, tmp_path: Path, collector: Receiver
) -> None:
    from spanbus.integrations.nats import deliver

    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path / "s"), "SPANBUS_NATS_URL": nats.url}
    heard: list[tuple[str, str]] = []
    with spanbus.open_runtime_sync(env=env) as runtime:
        bus = runtime.bus

        def handle(event: Event) -> None:
            heard.append((event.event_type, str(event.run_id)))
            if event.event_type == "order.paid":  # a handler's own event does go out
                bus.publish_nowait("order.shipped", run_id=event.run_id)

        bus.subscribe("order.paid", handle)
        bus.subscribe("workflow.started", handle)
        with deliver(nats.url, bus, name="loop") as one:
            started = line("theirs", 0, "workflow.started", payload={"workflow": "w"})
            publish(nats.url, [started], [line("theirs", 1)])
            eventually(
                lambda: one.state().delivered == 3, LIMIT_S
            )  # its own, back from the stream, too
            assert runtime.flush(20.0)
        assert heard == [("workflow.started", "theirs"), ("order.paid", "theirs")]
    types = [str(found["event_type"]) for _, found in stored(nats.url)]
    assert types == ["workflow.started", "order.paid", "order.shipped"]
    assert [span.name for span in collector.spans() if span.name.startswith("RUN w")] == []


def test_a_server_that_is_restarted(nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
    from spanbus.integrations.nats import deliver

    taken: list[str] = []
    with deliver(nats.url, lambda event: taken.append(event.event_id), name="patient") as one:
        publish(nats.url, [line("r", 1)])
        eventually(lambda: one.state().delivered == 1, LIMIT_S)
        nats.kill()
        eventually(lambda: one.state().outage is not None, LIMIT_S)
        nats.start()
        publish(nats.url, [line("r", 2)])
        eventually(lambda: one.state().delivered == 2, LIMIT_S)
        assert one.state().outage is None
    assert taken == ["r-001", "r-002"]
    assert len([each for each in caplog.records if "they are waited for" in each.message]) == 1


def test_one_that_is_closed_waits_for_its_handlers(nats: Nats) -> None:
    from spanbus.integrations.nats import deliver

    began, go_on = threading.Event(), threading.Event()

    def handle(event: Event) -> None:
        began.set()
        assert go_on.wait(LIMIT_S)

    one = deliver(nats.url, handle, name="slow")
    publish(nats.url, [line("r", 1)])
    assert began.wait(LIMIT_S)
    closing = threading.Thread(target=one.close, args=(LIMIT_S,))
    closing.start()
    go_on.set()
    closing.join(LIMIT_S)
    assert one.state()[:1] == (1,) and one.close(), "and nothing is left"


def test_bad_input_is_one_line(nats: Nats, tmp_path: Path) -> None:
    from spanbus.integrations.nats import deliver

    def take(event: Event) -> None: ...

    def no(event: Event) -> None: ...

    plain = Nats(tmp_path / "plain", jetstream=False).start()
    with nats_stream.Admin(nats.url, None) as asking:
        other = {"durable_name": "deliver-other", "ack_policy": "none"}
        asking.ask(
            "CONSUMER.CREATE.SPANBUS.deliver-other", {"stream_name": "SPANBUS", "config": other}
        )
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (InputError, "must be the URL of a NATS server", lambda: deliver("a:1", take, name="n")),
        (InputError, "needs a name", lambda: deliver(nats.url, take, name="")),
        (InputError, "is no name: letters, digits", lambda: deliver(nats.url, take, name="a.b")),
        (InputError, "is no name: letters, digits", lambda: deliver(nats.url, take, name="n" * 10_000)),
        (InputError, "to a bus or a function, not to int", lambda: deliver(nats.url, 3, name="n")),
        (InputError, "types are names", lambda: deliver(nats.url, take, name="n", types=())),
        (InputError, "types are names", lambda: deliver(nats.url, take, name="n", types=[1])),
        (InputError, "start is 'new' or 'all'", lambda: deliver(nats.url, take, name="n", start="x")),
        (InputError, "No such file", lambda: deliver(nats.url, take, name="n", credentials="/no/such")),
        (InputError, "no name of a stream", lambda: deliver(nats.url, take, name="n", stream="a b")),
        (BackendError, "nats://127.0.0.1:1: ", lambda: deliver("nats://127.0.0.1:1", take, name="n")),
        (BackendError, "`spanbus nats setup` makes it", lambda: deliver(nats.url, take, name="n", stream="NO")),
        (BackendError, "nobody answers for JetStream", lambda: deliver(plain.url, take, name="n")),
        (BackendError, "take another name, or remove it", lambda: deliver(nats.url, take, name="other")),
    ]  # fmt: skip
    try:
        for kind, words, call in wrong:
            with pytest.raises(kind) as refused:
                call()
            said = str(refused.value)
            assert words in said and "\n" not in said and len(said) < 400, said
    finally:
        plain.kill()
