"""The SDK's providers with the pipeline: everything arrives, or is counted."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry import context as otel_context
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import Tracer
from sleeping import slept_s

from spanbus._delivery.pipeline import DeliveryOptions, Leftover, Local, Pipeline
from spanbus.errors import StoreError
from spanbus.testing import Answer, Receiver

RESOURCE = Resource({"service.name": "tests"})


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        self.lines.append(line)


@contextmanager
def opened(
    state: Path,
    receiver: Receiver | None,
    *,
    local: Local | None = None,
    told: Told | None = None,
    env: dict[str, str] | None = None,
    on_leftover: list[Leftover] | None = None,
    quota_bytes: int = 256 * 2**20,
    exit_timeout_s: float = 0.25,
) -> Generator[Pipeline]:
    options = DeliveryOptions(
        state,
        RESOURCE,
        {**(receiver.env if receiver is not None else {}), **(env or {})},
        lifetime="run",
        quota_bytes=quota_bytes,
        exit_timeout_s=exit_timeout_s,
        remote=receiver is not None or env is not None,
        local=local,
        tell=told or Told(),
    )
    pipeline = Pipeline(
        options, on_leftover=on_leftover.append if on_leftover is not None else None
    )
    try:
        yield pipeline
    finally:
        pipeline.close()


def tracer_of(pipeline: Pipeline, sampler: Sampler = ALWAYS_ON) -> Tracer:
    provider = TracerProvider(sampler, pipeline.resource, shutdown_on_exit=False)
    provider.add_span_processor(pipeline.span_processor)
    return provider.get_tracer("tests", "1", "https://schema")


def spans(tracer: Tracer, count: int, name: str = "s") -> None:
    for number in range(count):
        tracer.start_span(f"{name}{number}", attributes={"number": number}).end()


def names(receiver: Receiver) -> Counter[str]:
    return Counter(span.name for span in receiver.spans())


def expected(count: int, name: str = "s") -> Counter[str]:
    return Counter(f"{name}{number}" for number in range(count))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


# --- what arrives -----------------------------------------------------------------------------------------------------


def test_a_burst_of_ten_thousand_spans_arrives_once(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        spans(tracer_of(pipeline), 10_000)
        assert pipeline.flush(20.0)
        found = pipeline.statistics()
    assert names(receiver) == expected(10_000)
    assert (found.spooled, found.delivered, found.waiting) == (
        {"traces": 10_000},
        {"traces": 10_000},
        0,
    )
    assert (found.dropped, found.rejected, found.outage) == ({}, {}, None)


def test_resource_scope_and_attributes_arrive(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        spans(tracer_of(pipeline), 1)
        assert pipeline.flush(5.0)
    ((resource, span),) = receiver.requests[0].spans_with_resource()
    assert [(one.key, one.value.string_value) for one in resource.attributes] == [
        ("service.name", "tests")
    ]
    assert [(one.key, one.value.int_value) for one in span.attributes] == [("number", 0)]


def test_spans_from_many_threads_arrive_once(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        tracer = tracer_of(pipeline)
        threads = [
            threading.Thread(target=spans, args=(tracer, 500, f"{number}-")) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pipeline.flush(20.0)
    assert names(receiver) == sum((expected(500, f"{number}-") for number in range(8)), Counter())


def test_unsampled_spans_are_not_spooled(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        spans(tracer_of(pipeline, ALWAYS_OFF), 5)
        assert pipeline.flush(5.0)
        assert pipeline.statistics().spooled == {}
    assert receiver.requests == []


def test_metrics_arrive_as_deltas_of_one_shot_processes(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        reader = pipeline.metric_reader()
        provider = MeterProvider([reader], resource=pipeline.resource, shutdown_on_exit=False)
        counter = provider.get_meter("tests").create_counter("things")
        for _ in range(3):
            counter.add(2, {"kind": "a"})
            counter.add(1, {"kind": "b"})
            reader.export_now()
        provider.shutdown()
        assert pipeline.flush(5.0)
        assert pipeline.statistics().delivered == {"metrics": 6}
    assert receiver.sum_of("things") == 9


def test_log_records_arrive(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        provider = LoggerProvider(resource=pipeline.resource, shutdown_on_exit=False)
        provider.add_log_record_processor(pipeline.log_processors()[0])
        provider.get_logger("tests").emit(
            body="hello", severity_number=SeverityNumber.WARN, event_name="greeting"
        )
        assert provider.force_flush(5000)
    assert [(record.body.string_value, record.event_name) for record in receiver.logs()] == [
        ("hello", "greeting")
    ]


def test_both_destinations_get_everything(tmp_path: Path, receiver: Receiver) -> None:
    kept: list[tuple[str, bytes]] = []
    with opened(
        tmp_path, receiver, local=lambda signal, body: kept.append((signal, body))
    ) as pipeline:
        spans(tracer_of(pipeline), 300)
        assert pipeline.flush(5.0)
    assert names(receiver) == expected(300)
    assert b"".join(body for _, body in kept).count(b"number") == 300


def test_spans_reach_the_local_store_while_the_collector_is_down(tmp_path: Path) -> None:
    kept: list[bytes] = []
    with (
        Receiver(listening=False) as closed,
        opened(tmp_path, closed, local=lambda signal, body: kept.append(body)) as pipeline,
    ):
        spans(tracer_of(pipeline), 10)
        assert not pipeline.flush(0.5)
        assert b"".join(kept).count(b"number") == 10


def test_an_error_of_the_local_store_is_retried(tmp_path: Path) -> None:
    kept: list[bytes] = []
    locked = [True, True]

    def keep(signal: str, body: bytes) -> None:
        if locked:
            locked.pop()
            raise StoreError("the store is locked")
        kept.append(body)

    with opened(tmp_path, None, local=keep) as pipeline:
        spans(tracer_of(pipeline), 10)
        assert pipeline.flush(10.0)
    assert b"".join(kept).count(b"number") == 10


# --- what does not ----------------------------------------------------------------------------------------------------


def test_rejected_spans_are_counted(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer(Answer(rejected=3, message="too old"))
    with opened(tmp_path, receiver) as pipeline:
        spans(tracer_of(pipeline), 10)
        assert pipeline.flush(5.0)
        found = pipeline.statistics()
    assert (found.delivered, found.rejected) == ({"traces": 7}, {("traces", "partial_success"): 3})


def test_refused_spans_are_set_aside_and_counted(tmp_path: Path, receiver: Receiver) -> None:
    told = Told()
    receiver.answer(Answer(400, "never"))
    with opened(tmp_path, receiver, told=told) as pipeline:
        spans(tracer_of(pipeline), 10)
        assert pipeline.flush(5.0)
        assert pipeline.statistics().rejected == {("traces", "refused"): 10}
    (file,) = (tmp_path / "refused").iterdir()
    assert file.read_bytes() == receiver.requests[0].body
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(told.lines) == 1


def test_a_span_that_cannot_be_encoded_is_counted(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        tracer = tracer_of(pipeline)
        broken = tracer.start_span("broken")
        assert isinstance(broken, ReadableSpan)
        whole = ReadableSpan(
            "broken", context=broken.get_span_context(), start_time="soon", resource=RESOURCE
        )  # pyright: ignore[reportArgumentType]
        pipeline.span_processor.on_end(whole)
        spans(tracer, 2)
        assert pipeline.flush(5.0)
        assert pipeline.statistics().dropped == {("traces", "not_encodable"): 1}
    assert names(receiver) == expected(2)


def test_a_signal_without_an_endpoint_is_counted(tmp_path: Path, receiver: Receiver) -> None:
    env = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{receiver.url}/v1/metrics"}
    with opened(tmp_path, None, env=env) as pipeline:
        spans(tracer_of(pipeline), 4)
        assert pipeline.flush(5.0)
        assert pipeline.statistics().dropped == {("traces", "no_endpoint"): 4}


@pytest.mark.parametrize(("quota_bytes", "count"), [(1_000_000, 4_000), (12 * 2**20, 18_000)])
def test_above_the_quota_the_oldest_spans_are_dropped_and_counted(
    tmp_path: Path, quota_bytes: int, count: int
) -> None:
    with Receiver(listening=False) as receiver:
        with opened(tmp_path, receiver, quota_bytes=quota_bytes) as pipeline:
            tracer = tracer_of(pipeline)
            for number in range(count):
                tracer.start_span(f"s{number}", attributes={"text": "x" * 1000}).end()
            alive = pipeline.statistics().dropped["traces", "quota"]
        dropped = pipeline.statistics().dropped["traces", "quota"]
        assert dropped - 1024 <= alive <= dropped, "what was just being sent is lost when it ends"
        assert count - quota_bytes / 1000 < dropped < count - quota_bytes / 2500
        receiver.up()
        with opened(tmp_path, receiver) as pipeline:
            assert pipeline.flush(10.0)
        assert names(receiver) == Counter(f"s{number}" for number in range(dropped, count))


def test_a_server_that_is_down_does_not_delay_another(tmp_path: Path, receiver: Receiver) -> None:
    with Receiver(listening=False) as down:
        env = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{down.url}/v1/metrics"}
        for number in range(2):
            with opened(tmp_path, receiver, env=env) as pipeline:
                reader = pipeline.metric_reader()
                provider = MeterProvider(
                    [reader], resource=pipeline.resource, shutdown_on_exit=False
                )
                counter = provider.get_meter("tests").create_counter("things")
                tracer = tracer_of(pipeline)
                for part in range(3):
                    counter.add(1)
                    spans(tracer, 10, f"{number}-{part}-")
                    reader.export_now()
                assert receiver.wait_for(spans=30 * (number + 1))
                assert not pipeline.flush(0.3)
                assert any(
                    pipeline.statistics().delivered or pipeline.flush(0.1) for _ in range(99)
                )
                found = pipeline.statistics()
                assert (found.delivered, found.dropped) == ({"traces": 30}, {})
                assert found.waiting >= 3
                provider.shutdown()
        assert len(receiver.spans()) == 60
        down.up()
        with opened(tmp_path, receiver, env=env) as pipeline:
            assert pipeline.flush(10.0)
        assert down.sum_of("things") == 6
        assert receiver.metrics() == []


def test_waiting_records_go_to_the_endpoint_configured_now(
    tmp_path: Path, receiver: Receiver
) -> None:
    with (
        Receiver(listening=False) as down,
        opened(
            tmp_path,
            receiver,
            env={"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{down.url}/v1/metrics"},
        ) as pipeline,
    ):
        reader = pipeline.metric_reader()
        provider = MeterProvider([reader], resource=pipeline.resource, shutdown_on_exit=False)
        provider.get_meter("tests").create_counter("things").add(5)
        provider.shutdown()
    with opened(tmp_path, receiver) as pipeline:
        assert pipeline.flush(10.0)
    assert receiver.sum_of("things") == 5


# --- where it is kept -------------------------------------------------------------------------------------------------


def test_waiting_records_are_delivered_once_by_the_next_pipeline(tmp_path: Path) -> None:
    told = Told()
    with Receiver(listening=False) as receiver:
        with opened(tmp_path, receiver, told=told) as pipeline:
            spans(tracer_of(pipeline), 2_000)
        assert pipeline.statistics().waiting == 2_000
        assert len(told.lines) == 1
        assert str(tmp_path) in told.lines[0]
        receiver.up()
        for _ in range(2):
            with opened(tmp_path, receiver) as pipeline:
                assert pipeline.flush(10.0)
        assert names(receiver) == expected(2_000)


def test_without_a_state_directory_memory_is_used_and_reported(
    tmp_path: Path, receiver: Receiver
) -> None:
    (tmp_path / "file").write_text("in the way")
    told = Told()
    with opened(tmp_path / "file", receiver, told=told) as pipeline:
        spans(tracer_of(pipeline), 500)
        assert pipeline.flush(5.0)
    assert names(receiver) == expected(500)
    assert len(told.lines) == 1
    assert "memory" in told.lines[0]


def test_with_an_invalid_setting_records_wait_and_the_reason_is_reported(
    tmp_path: Path, receiver: Receiver
) -> None:
    told = Told()
    with opened(
        tmp_path, receiver, env={"OTEL_EXPORTER_OTLP_COMPRESSION": "tar"}, told=told
    ) as pipeline:
        spans(tracer_of(pipeline), 5)
    assert len(told.lines) == 1
    assert "OTEL_EXPORTER_OTLP_COMPRESSION='tar'" in told.lines[0]
    with opened(tmp_path, receiver) as pipeline:
        assert pipeline.flush(5.0)
    assert names(receiver) == expected(5)


# --- the journal ------------------------------------------------------------------------------------------------------


CUT_OFF = """
import os, sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from pathlib import Path
from spanbus._delivery.pipeline import DeliveryOptions, Pipeline

pipeline = Pipeline(DeliveryOptions(Path(sys.argv[1]), Resource({}), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, lifetime="run"))
provider = TracerProvider(resource=pipeline.resource, shutdown_on_exit=False)
provider.add_span_processor(pipeline.span_processor)
tracer = provider.get_tracer("t")
reader = pipeline.metric_reader()
meters = MeterProvider([reader], shutdown_on_exit=False)
counter = meters.get_meter("t").create_counter("c")
def one(name):
    span = tracer.start_span(name)
    pipeline.journal.journal_open(span.get_span_context().span_id, name.encode())
    counter.add(1)
    span.end()
one("counted")
reader.export_now()
one("not counted")
pipeline.journal.journal_open(77, b"open")
pipeline.journal.journal_update(77, b"and more")
pipeline.journal.journal_open(78, b"withdrawn")
pipeline.journal.journal_close(78)
os._exit(0)
"""


def test_leftovers_of_a_dead_process_are_handed_over_once(
    tmp_path: Path, receiver: Receiver
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    found: list[Leftover] = []
    with opened(tmp_path, receiver, on_leftover=found) as pipeline:
        assert pipeline.flush(5.0)
        assert pipeline.flush(5.0)
    with opened(tmp_path, receiver, on_leftover=found) as pipeline:
        assert pipeline.flush(5.0)
    (leftover,) = found
    assert leftover.open == [(77, [b"open", b"and more"])]
    assert len(leftover.measurements) == 1
    assert b"not counted" in leftover.measurements[0]
    assert names(receiver) == Counter(["counted", "not counted"])
    assert receiver.sum_of("c") == 1


def test_a_leftover_whose_handling_fails_stays_for_the_next_pipeline(
    tmp_path: Path, receiver: Receiver
) -> None:
    subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        timeout=60,
    )

    def fails(leftover: Leftover) -> None:
        raise RuntimeError("a bug")

    pipeline = Pipeline(
        DeliveryOptions(tmp_path, RESOURCE, receiver.env, lifetime="run"), on_leftover=fails
    )
    assert pipeline.flush(5.0)
    pipeline.close()
    found: list[Leftover] = []
    with opened(tmp_path, receiver, on_leftover=found) as pipeline:
        assert pipeline.flush(5.0)
    assert [leftover.open for leftover in found] == [[(77, [b"open", b"and more"])]]


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_instrumentation_is_suppressed_during_delivery(tmp_path: Path) -> None:
    suppressed: list[object] = []
    key = str(otel_context._SUPPRESS_INSTRUMENTATION_KEY)  # noqa: SLF001 (the API has no other)

    def keep(signal: str, body: bytes) -> None:
        suppressed.append(otel_context.get_value(key))

    with opened(tmp_path, None, local=keep) as pipeline:
        spans(tracer_of(pipeline), 1)
        assert pipeline.flush(5.0)
    assert suppressed == [True]


def test_without_records_no_connection_is_opened(tmp_path: Path, receiver: Receiver) -> None:
    with opened(tmp_path, receiver) as pipeline:
        pipeline.start()
        assert pipeline.flush(1.0)
    assert receiver.connections_seen == 0


def test_close_is_idempotent_and_later_spans_are_ignored(
    tmp_path: Path, receiver: Receiver
) -> None:
    with opened(tmp_path, receiver, exit_timeout_s=30) as pipeline:
        tracer = tracer_of(pipeline)
        spans(tracer, 3)
        pipeline.close()
        pipeline.close()
        spans(tracer, 3, "late")
        assert pipeline.statistics().delivered == {"traces": 3}
    assert names(receiver) == expected(3)


def test_close_takes_no_longer_than_the_limit(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer(Answer.hang())
    with opened(tmp_path, receiver, exit_timeout_s=0.1) as pipeline:
        spans(tracer_of(pipeline), 100)
        start = slept_s()
        pipeline.close()
        assert slept_s() - start < 0.3


def test_importing_delivery_loads_neither_grpc_nor_an_http_client() -> None:
    code = "import json, sys, spanbus._delivery.pipeline; print(json.dumps([name for name in ('grpc', 'urllib3', 'requests', 'anyio') if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == []
