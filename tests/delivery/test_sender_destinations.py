"""Destinations: the endpoint of each signal, and the bounded folder of refused requests."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from spanbus._delivery.dead_letters import DeadLetters
from spanbus._delivery.destinations import LocalDestination, OtlpDestination
from spanbus._delivery.outcomes import Delivered, Retry, Unwanted
from spanbus._delivery.spool import Stored
from spanbus._otlp.signals import Signal
from spanbus.errors import StoreError
from spanbus.testing import Answer, GrpcReceiver, Receiver


def join(signal: Signal, records: Sequence[Stored]) -> bytes:
    return b"".join(record.data for record in records)


def records(*data: bytes) -> list[Stored]:
    return [Stored(Signal.TRACES, b"", one, 1) for one in data]


@contextmanager
def destination(env: dict[str, str]) -> Generator[OtlpDestination]:
    made = OtlpDestination(env, join)
    try:
        yield made
    finally:
        made.close()


def test_each_signal_goes_to_its_own_endpoint() -> None:
    with Receiver() as common, Receiver() as own:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": common.url,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{own.url}/otlp",
        }
        with destination(env) as remote:
            assert remote.send(Signal.TRACES, records(b"\n\0", b"\n\0"), 5.0) == Delivered()
            assert remote.send(Signal.METRICS, records(b"\n\0"), 5.0) == Delivered()
            assert remote.send(Signal.LOGS, records(b"\n\0"), 5.0) == Delivered()
        assert [(request.path, request.sent) for request in common.requests] == [
            ("/v1/traces", b"\n\0\n\0"),
            ("/v1/logs", b"\n\0"),
        ]
        assert [(request.path, request.sent) for request in own.requests] == [("/otlp", b"\n\0")]


def test_signals_may_use_different_protocols() -> None:
    with Receiver() as http, GrpcReceiver() as grpc:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": http.url,
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": grpc.url,
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "grpc",
        }
        with destination(env) as remote:
            assert remote.send(Signal.TRACES, records(b""), 5.0) == Delivered()
            assert remote.send(Signal.LOGS, records(b""), 5.0) == Delivered()
        assert [request.signal for request in http.requests + grpc.requests] == ["traces", "logs"]


@pytest.mark.parametrize(
    "answer", [Answer(rejected=1, message="x" * 5_000_000), Answer(13, "\x1b[2J" * 200_000)]
)
def test_an_endless_grpc_answer_is_cut_and_the_batch_is_not_split(answer: Answer) -> None:
    """An answer takes bounded memory. A too large answer says nothing about the size of the request."""
    with GrpcReceiver() as grpc:
        grpc.answer(answer)
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": grpc.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        with destination(env) as remote:
            outcome = remote.send(Signal.TRACES, records(b"\n\0"), 20.0)
        assert isinstance(outcome, Retry) and outcome.attempts is not None
        assert len(outcome.reason) <= 400 and outcome.reason.isprintable()


def test_a_signal_without_an_endpoint_is_not_wanted_if_others_have_one() -> None:
    with (
        Receiver() as receiver,
        destination({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces"}) as remote,
    ):
        assert remote.send(Signal.TRACES, records(b""), 5.0) == Delivered()
        assert remote.send(Signal.METRICS, records(b""), 5.0) == Unwanted("no_endpoint")


def test_a_signal_that_is_switched_off_is_not_wanted() -> None:
    with destination(
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    ) as remote:
        assert remote.send(Signal.METRICS, records(b""), 5.0) == Unwanted("switched_off")


def test_with_an_invalid_setting_the_destination_keeps_the_records() -> None:
    with destination({"OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}) as remote:
        outcome = remote.send(Signal.TRACES, records(b""), 5.0)
        assert isinstance(outcome, Retry)
        assert "OTEL_EXPORTER_OTLP_PROTOCOL='carrier-pigeon'" in outcome.reason
        assert remote.shown == "the OTLP endpoint"


def test_the_name_of_a_destination_has_no_user_and_no_path() -> None:
    assert (
        OtlpDestination(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://me:secret@c:4318/x?key=secret"}, join
        ).shown
        == "https://c:4318"
    )


def test_the_endpoints_own_timeout_is_the_limit() -> None:
    with Receiver(listening=False) as receiver:
        receiver.up()
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "200"}
        receiver.answer(Answer.hang())
        with destination(env) as remote:
            assert remote.send(Signal.TRACES, records(b""), 60.0) == Retry("no answer in time")


def test_the_local_store_gets_signal_and_bytes() -> None:
    kept: list[tuple[str, bytes]] = []
    local = LocalDestination(lambda signal, body: kept.append((signal, body)), join)
    assert local.send(Signal.TRACES, records(b"a", b"b"), 1.0) == Delivered()
    assert kept == [("traces", b"ab")]
    assert type(kept[0][0]) is str


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (StoreError("locked"), None),
        (OSError(28, "No space left on device"), None),
        (ValueError("bad"), 5),
    ],
)
def test_an_error_of_the_local_store_is_a_retry(error: Exception, attempts: int | None) -> None:
    def keep(signal: str, body: bytes) -> None:
        raise error

    outcome = LocalDestination(keep, join).send(Signal.TRACES, records(b"a"), 1.0)
    assert isinstance(outcome, Retry)
    assert outcome.attempts == attempts


# --- the folder -------------------------------------------------------------------------------------------------------


def test_files_of_refused_requests_are_private(tmp_path: Path) -> None:
    folder = DeadLetters(tmp_path / "a" / "refused")
    path = folder.keep(Signal.LOGS, b"body")
    assert path is not None
    assert path.read_bytes() == b"body"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.directory.stat().st_mode) == 0o700


def test_the_oldest_files_of_refused_requests_are_deleted(tmp_path: Path) -> None:
    folder = DeadLetters(tmp_path, largest_bytes=25, most_files=100)
    for number in range(6):
        assert folder.keep(Signal.TRACES, bytes([number]) * 10) is not None
    assert sorted(file.read_bytes()[0] for file in tmp_path.iterdir()) == [4, 5]


def test_the_number_of_refused_files_is_bounded(tmp_path: Path) -> None:
    folder = DeadLetters(tmp_path, most_files=3)
    for number in range(10):
        folder.keep(Signal.TRACES, bytes([number]))
    assert sorted(file.read_bytes()[0] for file in tmp_path.iterdir()) == [7, 8, 9]


def test_a_refused_request_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    assert DeadLetters(tmp_path, largest_bytes=10).keep(Signal.TRACES, b"x" * 11) is None
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_keeps_nothing_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert DeadLetters(tmp_path / "file" / "refused").keep(Signal.TRACES, b"x") is None
