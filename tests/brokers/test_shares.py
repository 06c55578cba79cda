"""Several observers of one stream: shares, hand-overs, hosts that are lost or stand still; every bound is of one interval."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import Nats
from observing import Observing, Start, doubled, mixed, publish, run, total, unique
from servers import eventually
from spans import attributes

from spanbus.errors import BackendError
from spanbus.integrations import nats_stream
from spanbus.testing import Receiver


def checkpoints(url: str) -> dict[int, dict[str, object]]:
    """The checkpoints of group main, by partition."""
    found: dict[int, dict[str, object]] = {}
    with nats_stream.Admin(url, None) as asking:
        for number in range(64):
            key = {"last_by_subj": f"$KV.spanbus_observe.main.state.{number}"}
            try:
                answer = asking.ask("STREAM.MSG.GET.KV_spanbus_observe", key)
            except BackendError:
                continue
            found[number] = json.loads(base64.b64decode(answer["message"]["data"]))  # type: ignore[index]
    return found


def written_upto(url: str, last: int) -> Callable[[], bool]:
    """Whether every partition's checkpoint has come to this message."""
    return lambda: (
        len(found := checkpoints(url)) == 64
        and all(int(str(each["high"])) >= last for each in found.values())
    )


def test_two_shares_observe_everything_once_and_are_handed_over_in_good_order(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    runs = [run(f"r-{number}") for number in range(24)]
    half = [one[:4] for one in runs]
    first = observe(tmp_path / "a", "--share", "pod-0/2")
    second = observe(tmp_path / "b", "--share", "pod-1/2")
    assert "partitions 0-31 of" in first.said[-1] and "partitions 32-63 of" in second.said[-1]
    publish(nats.url, mixed(half))
    assert collector.wait_until(lambda got: len(got.spans()) == 24, 40.0), len(collector.spans())
    # the first leaves in good order; another host goes on at once, in the middle of every run
    assert first.end(signal.SIGTERM) == 0, first.said
    third = observe(tmp_path / "c", "--partitions", "0-31")
    publish(nats.url, mixed([one[4:] for one in runs]))
    assert collector.wait_until(lambda got: len(got.spans()) >= 120, 40.0), len(collector.spans())
    assert (second.end(signal.SIGTERM), third.end(signal.SIGTERM)) == (0, 0)
    assert not [line for line in third.said if "wait" in line], third.said
    assert (len(unique(collector)), doubled(collector)) == (120, [])
    for each in (second, third):
        assert any("0 runs are open" in line for line in each.said), each.said
    counted = ("spanbus.phase.failures", "spanbus.phase.retries", "spanbus.phase.duration")
    assert [total(collector, name) for name in counted] == [24, 24, 48]
    hosts = {attributes(one)["cicd.pipeline.run.id"] for one in collector.spans()}
    assert len(hosts) == 24
    assert all(each["left"] for each in checkpoints(nats.url).values())


def test_two_observers_that_are_killed_five_times_tell_everything_once(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    shares = [("--share", f"{number}/2") for number in range(2)]
    observers = [observe(tmp_path / f"o{n}", *words) for n, words in enumerate(shares)]
    runs = [run(f"r-{number}") for number in range(50)]
    for part in range(5):
        lines = mixed(runs[part * 10 : part * 10 + 10])
        publish(nats.url, lines[: len(lines) * 2 // 3])
        which = part % 2
        observers[which].kill()
        observers[which] = observe(tmp_path / f"o{which}", *shares[which])
        publish(nats.url, lines[len(lines) * 2 // 3 :])
    assert collector.wait_until(lambda _: len(unique(collector)) == 250, 60.0)
    assert [each.end(signal.SIGTERM) for each in observers] == [0, 0]
    known = unique(
        collector
    )  # some may have come twice, from one that was killed after the collector's answer
    assert len(known) == 250
    assert all(not one.parent_span_id or one.parent_span_id in known for one in collector.spans())
    counted = ("spanbus.phase.failures", "spanbus.phase.retries", "spanbus.phase.duration")
    assert [total(collector, name) for name in counted] == [50, 50, 100]
    assert total(collector, "cicd.pipeline.run.duration") == 50, (
        "what is told twice is counted twice"
    )


def test_a_host_that_is_lost_with_its_state_is_replaced_and_nothing_is_missing(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    settled, late = [run(f"s-{n}") for n in range(8)], [run(f"l-{n}") for n in range(8)]
    lost = observe(tmp_path / "lost")
    publish(nats.url, mixed([*settled, *(one[:4] for one in late)]))
    eventually(written_upto(nats.url, 8 * 7 + 8 * 4), 40.0)
    standby = observe(tmp_path / "standby")
    assert "waits for them" in standby.wait_for("partitions 0-63 are observed by")
    before = len(collector.spans())
    publish(nats.url, mixed([one[4:] for one in late]))
    eventually(lambda: len(collector.spans()) > before, 40.0)
    lost.kill()
    shutil.rmtree(tmp_path / "lost")
    # what came after the last checkpoint, and nothing else, may come a second time
    assert collector.wait_until(lambda _: len(unique(collector)) == 80, 60.0), len(
        unique(collector)
    )
    assert standby.end(signal.SIGTERM) == 0, standby.said
    assert len(unique(collector)) == 80
    again = doubled(collector)
    assert len(again) <= 8 * 4 and set(again) <= {
        "tests attempt 1",
        "tests attempt 2",
        "tests",
        "RUN w",
    }, again
    for name in ("spanbus.phase.failures", "spanbus.phase.retries"):
        assert 16 <= total(collector, name) <= 16 + 8


def test_a_holder_that_stands_still_tells_nothing_after_another_took_its_share(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    runs = [run(f"r-{number}") for number in range(12)]
    stopped = observe(tmp_path / "a")
    publish(nats.url, mixed([one[:4] for one in runs]))
    eventually(written_upto(nats.url, 48), 40.0)
    stopped.signal(signal.SIGSTOP)
    other = observe(tmp_path / "b", "--take")
    publish(nats.url, mixed([one[4:] for one in runs]))
    assert collector.wait_until(lambda got: len(got.spans()) == 60, 40.0), len(collector.spans())
    stopped.signal(signal.SIGCONT)
    said = stopped.wait_for("this observer lets go of them")
    assert "all partitions are observed by" in said
    assert stopped.end() == 1
    assert stopped.said[-1].endswith(
        "somebody else observes as group main now; this observer lets go"
    )
    assert other.end(signal.SIGTERM) == 0
    assert (len(unique(collector)), doubled(collector)) == (60, [])


def test_shares_that_overlap_end_with_one_holder_of_each_partition(
    nats: Nats, collector: Receiver, observe: Start, tmp_path: Path
) -> None:
    runs = [run(f"r-{number}") for number in range(16)]
    whole = observe(tmp_path / "a")
    publish(nats.url, mixed([one[:3] for one in runs]))
    eventually(written_upto(nats.url, 48), 40.0)
    part = observe(tmp_path / "b", "--partitions", "16-47", "--take")
    assert "partitions 16-47 are observed by" in whole.wait_for("this observer lets go of them")
    holders = {
        number: str(each["by"]).split("/")[1] for number, each in checkpoints(nats.url).items()
    }
    assert part.process is not None and whole.process is not None
    mine, theirs = str(whole.process.pid), str(part.process.pid)
    assert holders == {n: theirs if 16 <= n <= 47 else mine for n in range(64)}
    check_status(nats.url, whole, theirs)
    publish(nats.url, mixed([one[3:] for one in runs]))
    assert collector.wait_until(lambda got: len(got.spans()) >= 80, 40.0), len(collector.spans())
    assert (whole.end(signal.SIGTERM), part.end(signal.SIGTERM)) == (0, 0)
    assert (len(unique(collector)), doubled(collector)) == (80, [])


def check_status(url: str, one: Observing, other: str) -> None:
    """``spanbus nats status`` while two observe, ``other`` the partitions 16 to 47."""
    argv = [*one.argv[:3], "nats", "status", url]
    shown = subprocess.run(
        argv, env=one.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "group     main: 64 of 64 partitions are observed" in shown.stdout
    assert f"  16-47: {os.uname().nodename}/{other}: checkpoint " in shown.stdout
    assert "alive     0 publishers with open runs" in shown.stdout
    document = json.loads(
        subprocess.run(
            [*argv, "--json"], env=one.env, capture_output=True, timeout=60, check=False
        ).stdout
    )
    parts = document["partitions"]
    assert [each["partition"] for each in parts] == list(range(64))
    assert all(each["held"] and each["checkpoint_age_s"] < 15 for each in parts)
    assert sum(each["open_runs"] for each in parts) == 16
    assert (document["group"], document["publishers"], document["clocks"]) == ("main", [], [])


def test_what_the_stream_deleted_unread_is_counted(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    def once() -> str:
        observing = Observing(nats, collector, tmp_path / "s", "--once")
        done = subprocess.run(
            observing.argv,
            env=observing.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    nats_stream.set_up(nats.url, nats_stream.Wanted(max_bytes=2**20))
    open_, whole = run("open"), run("whole")
    publish(nats.url, open_[:4])
    once()
    chatter = [
        {
            **line,
            "event_id": f"c-{number}",
            "event_type": "talk",
            "payload": {"text": f"{number:0>9000}"},
        }
        for number, line in enumerate([open_[0]] * 200)
    ]
    publish(nats.url, [*chatter, *whole, *open_[4:]])
    first = nats_stream.status(nats.url).first_sequence
    assert 5 < first < 200
    assert f"{first - 1 - 4} messages were deleted before they were read" in once()
    assert total(collector, "spanbus.observe.lost") == first - 1 - 4
    told = [attributes(one) for one in collector.spans()]
    assert {each["cicd.pipeline.run.id"] for each in told} == {"open", "whole"}
    assert doubled(collector) == []
    cut = [each["cicd.pipeline.run.id"] for each in told if "spanbus.abandoned" in each]
    assert cut == ["open"], "which may lack something now"
    assert total(collector, "spanbus.observe.partitions") == 0, "none is held any more"


def test_what_was_deleted_unread_is_counted_once_by_all_shares_together(
    nats: Nats, collector: Receiver, tmp_path: Path
) -> None:
    def observed() -> list[str]:
        said: list[str] = []
        for number in range(4):
            words = ("--once", "--share", f"{number}/4")
            one = Observing(nats, collector, tmp_path / f"s{number}", *words)
            done = subprocess.run(
                one.argv, env=one.env, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            said += [
                line
                for line in done.stderr.splitlines()
                if "were deleted" in line or "was deleted" in line
            ]
        return said

    publish(nats.url, run("read"))
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.PURGE.SPANBUS", {"seq": 4})
    assert observed() == [], "what was gone before anybody observed is nobody's loss"
    publish(nats.url, [*run("unread"), *run("there")])
    with nats_stream.Admin(nats.url, None) as asking:
        asking.ask("STREAM.PURGE.SPANBUS", {"seq": 11})  # 8, 9 and 10
    assert sum(int(line.split()[1]) for line in observed()) == 3
    assert total(collector, "spanbus.observe.lost") == 3
    assert observed() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--share", "4/4"), "shares are counted from 0: 0/4 to 3/4"),
        (("--share", "x"), "such as 0/4"),
        (("--partitions", "64"), "numbered from 0 to 63"),
        (("--partitions", "0", "--share", "0/2"), "not both"),
    ],
)
def test_partitions_that_are_none_are_bad_input(
    words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    server = Nats(tmp_path / "none")  # never started: nothing of it is needed
    observing = Observing(server, None, tmp_path / "s", *words)
    done = subprocess.run(
        observing.argv,
        env={**os.environ, **observing.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert told in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
