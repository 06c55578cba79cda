"""Commands that run until a signal: the handler may run at any point of the wait."""

from __future__ import annotations

import os
import signal
import threading
import time

from spanbus._cli.stopping import Stop, stop_on_signals


def test_either_signal_stops_the_wait_and_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with stop_on_signals() as stop:
            assert not stop.is_set() and not stop.wait(0.0)
            os.kill(os.getpid(), number)
            assert stop.wait(60) and stop.is_set()
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_many_signals_at_any_point_of_the_wait_only_stop_the_command() -> None:
    """With ``threading.Event`` a handler may wait for the lock that its own thread holds."""
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)

    stops = [Stop()]
    before = signal.signal(signal.SIGUSR1, lambda *_: stops[-1].set())
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            stops[:] = [Stop()]
            stops[-1].wait(0.001)
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    stops[-1].set()
    assert stops[-1].wait(60)
