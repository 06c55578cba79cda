"""Observers in threads of a program that does other things: in its own event loop, and told to stop by it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import anyio
import pytest
from brokers import Nats
from observing import EXPECTED, Observing, mixed, once, publish, run, total
from picture import picture

from spanbus._runtime import Runtime
from spanbus._settings import load_settings
from spanbus.errors import BackendError, InputError
from spanbus.integrations.nats import observe
from spanbus.integrations.nats_observer import Observer
from spanbus.testing import Receiver


class StopsAt:
    """Tells an observer to stop when it has come to a message."""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence
        self.observer: Observer | None = None

    def is_set(self) -> bool:
        assert self.observer is not None
        return self.observer.state().sequence >= self._sequence

    def wait(self, timeout_s: float, /) -> bool:
        return self.is_set() or threading.Event().wait(timeout_s)


@pytest.mark.parametrize("once", [False, True])
def test_told_to_stop_it_ends_within_what_one_answer_gave_and_goes_on_there(
    nats: Nats, collector: Receiver, tmp_path: Path, once: bool
) -> None:
    runs = [run(f"r-{number}") for number in range(20)]
    publish(nats.url, mixed(runs))  # one pull gives all of them
    env = {
        **collector.env,
        "SPANBUS_STATE_DIR": str(tmp_path),
        "SPANBUS_LOCAL": "off",
    }
    settings = load_settings(env=env)
    for stop, last in ((StopsAt(10), 10), (StopsAt(70), 70), (StopsAt(1_000), 140)):
        with (
            Runtime(settings, command_line=True, env=env) as runtime,
            Observer(nats.url, runtime) as observer,
        ):
            stop.observer = observer
            if last == 140:
                observer.once(stop)
            elif once:
                with pytest.raises(BackendError, match=f"told to stop at message {last}"):
                    observer.once(stop)
            else:
                observer.follow(stop)
            assert observer.state().sequence == last
    assert collector.wait_until(lambda got: len(got.spans()) >= 100, 30.0)
    assert len(collector.spans()) == len({span.span_id for span in collector.spans()}) == 100
    assert total(collector, "spanbus.phase.failures") == 20


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_observer_in_a_programs_own_loop(
    nats: Nats, collector: Receiver, tmp_path: Path, backend: str
) -> None:
    async def program(runtime: Runtime, upto: int) -> None:
        observation = observe(nats.url, runtime=runtime)
        async with observation:
            assert observation.observing
            with anyio.fail_after(30):
                while observation.state().sequence < upto:
                    await anyio.sleep(0.02)
        assert not observation.observing

    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path), "SPANBUS_LOCAL": "off"}
    lines = run("r")
    for part, upto in ((lines[:4], 4), (lines[4:], 7)):
        publish(nats.url, part)
        with Runtime(load_settings(env=env), env=env) as runtime:
            anyio.run(program, runtime, upto, backend=backend)
    again = {**env, "SPANBUS_STATE_DIR": str(tmp_path / "again")}
    with Runtime(
        load_settings(env=again), env=again
    ) as runtime:  # it had left: nothing is waited for
        anyio.run(program, runtime, 7, backend=backend)
    once(nats, collector, tmp_path / "end")  # the end had not settled
    assert picture(collector.spans()) == EXPECTED
    assert len(collector.spans()) == 5


def test_an_observer_in_a_program_says_why_it_cannot_begin_and_why_it_ended(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path), "SPANBUS_LOCAL": "off"}

    async def taken(runtime: Runtime) -> None:
        async with observe(nats.url, runtime=runtime) as observation:
            once(nats, collector, tmp_path / "other", "--take")
            with anyio.fail_after(40):
                while observation.observing:
                    await anyio.sleep(0.05)

    async def away(runtime: Runtime) -> None:
        async with observe(nats.url, runtime=runtime):
            pass

    with Runtime(load_settings(env=env), env=env) as runtime:
        with pytest.raises(InputError, match="no server is named"):
            observe("", runtime=runtime)
        with pytest.raises(BackendError, match="somebody else observes as group main now"):
            anyio.run(taken, runtime)
        nats.kill()
        with pytest.raises(BackendError, match=r"127\.0\.0\.1"):
            anyio.run(away, runtime)
    sdk = {**env, "SPANBUS_DELIVERY": "sdk"}
    with (
        Runtime(load_settings(env=sdk), env=sdk) as runtime,
        pytest.raises(InputError, match=r"SPANBUS_DELIVERY=sdk"),
    ):
        observe(nats.url, runtime=runtime)


def test_a_second_observer_in_the_process_that_would_share_its_marks_is_refused(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    env = {**collector.env, "SPANBUS_STATE_DIR": str(tmp_path), "SPANBUS_LOCAL": "off"}
    lines = run("r")
    publish(nats.url, lines[:4])

    async def program(runtime: Runtime) -> None:
        low, high = range(32), range(32, 64)
        async with observe(nats.url, runtime=runtime, partitions=low) as first:
            with anyio.fail_after(40):
                while first.state().held != tuple(low):
                    await anyio.sleep(0.02)
            for partitions in (low, high):
                with pytest.raises(BackendError, match="another observer in this process has it"):
                    async with observe(nats.url, runtime=runtime, partitions=partitions):
                        pass
            async with observe(nats.url, runtime=runtime, group="other"):  # of files of its own
                assert first.observing and first.state().held == tuple(low)
            # what the first one has is still its own: another process waits for it
            assert "another observer of group main has partitions 0-31" in _refused(
                nats, tmp_path, "--partitions", "0-31"
            )
        async with observe(nats.url, runtime=runtime) as again:  # it was let go
            with anyio.fail_after(40):
                while len(again.state().held) < 64:
                    await anyio.sleep(0.02)

    with Runtime(load_settings(env=env), env=env) as runtime:
        anyio.run(program, runtime)


def _refused(nats: Nats, folder: Path, *words: str) -> str:
    """The error of an observer that reads to the end of the stream, in a process of its own."""
    one = Observing(nats, None, folder, "--once", *words)
    done = subprocess.run(
        one.argv, env=one.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    return done.stderr
