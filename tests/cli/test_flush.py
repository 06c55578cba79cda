"""`spanbus flush` delivers, and says so only when it is true."""

from __future__ import annotations

import time
from pathlib import Path

from command_line import Cli

from spanbus.testing import Answer, Receiver


def test_what_it_counts_of_itself_is_delivered_too_however_short_the_exit_limit(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=0.3))
        cli = Cli(tmp_path, {**receiver.env, "SPANBUS_EXIT_TIMEOUT_S": "0.05"})
        assert cli("exec", "--", "true").code == 0
        done = cli("flush", "--wait", "20")
        assert (done.code, done.err) == (0, "spanbus: everything is delivered\n")
        assert cli("flush").err.startswith("spanbus: nothing waits")


def test_a_collector_that_is_not_there_holds_it_no_longer_than_was_asked_for(tmp_path: Path) -> None:
    with Receiver(listening=False) as receiver:
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        began = time.monotonic()
        done = cli("flush", "--wait", "1")
        assert (done.code, time.monotonic() - began < 6) == (1, True)
        assert "records still wait" in done.err
        assert "refused" in done.err


def test_a_collector_that_never_answers_holds_it_no_longer_than_was_asked_for_and_is_named(tmp_path: Path) -> None:
    with Receiver() as receiver:
        receiver.answer(Answer(delay_s=60))
        cli = Cli(tmp_path, receiver.env)
        assert cli("exec", "--", "true").code == 0
        began = time.monotonic()
        done = cli("flush", "--wait", "3")
        assert (done.code, time.monotonic() - began < 5.5) == (1, True)
        assert "records still wait" in done.err
        assert "no answer in time" in done.err
        assert len(done.err.splitlines()) == 1
