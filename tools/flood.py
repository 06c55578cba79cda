"""Send spans to a backend at a steady rate, beyond the size limit of its store, and check its limits.

``python tools/flood.py [SECONDS] [SPANS_PER_S] [STORE_MIB]``. Requests go over real sockets to a ``spanbus up`` of their own,
each at its scheduled time, independent of earlier ones. Exit code: 0, or 1 with a line for each limit that was exceeded.
"""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

sys.path.insert(0, str(Path(__file__).parent))

from soak import Backend, free_port

RUNS, SPANS_OF_A_RUN = 50, 10
SENDERS = 4
MOST_MS = 500.0
MOST_OF_THE_BOUND = 1.1
_TRACE, _SPAN, _RUN, _TIME = b"<the trace: 16b>", b"<span7>", b"run-number12", b"TIME"


class Requests:
    """Bodies of one shape with new ids and times: runs of nine phases with three events each."""

    def __init__(self) -> None:
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        for key, text in (("service.name", "flood"), ("telemetry.sdk.language", "python")):
            group.resource.attributes.add(key=key).value.string_value = text
        scope = group.scope_spans.add()
        scope.scope.name = "spanbus"
        for number in range(SPANS_OF_A_RUN):
            self._span(scope.spans.add(), number)
        self._run = scope.SerializeToString()[len(scope.scope.SerializeToString()) + 2 :]
        for _ in range(RUNS - 1):
            scope.spans.extend(scope.spans[:SPANS_OF_A_RUN])
        body = request.SerializeToString()
        self._head = body[: len(body) - RUNS * len(self._run)]

    def _span(self, span: Span, number: int) -> None:
        begin = int.from_bytes(number.to_bytes(4, "little") + _TIME, "little")
        span.trace_id, span.span_id = _TRACE, _SPAN + bytes([number])
        span.parent_span_id = _SPAN + b"\0" if number else b""
        span.name, span.kind = f"phase {number}" if number else "RUN flood", Span.SPAN_KIND_INTERNAL
        span.start_time_unix_nano, span.end_time_unix_nano = begin, begin + 1_000
        said = {
            "cicd.pipeline.name": "flood",
            "cicd.pipeline.run.id": _RUN.decode(),
            "spanbus.level": "phase" if number else "run",
            "cicd.pipeline.task.name": f"phase {number}",
            "cicd.pipeline.task.run.result": "success",
        }
        for key, text in said.items():
            span.attributes.add(key=key).value.string_value = text
        for name in (
            "hooks.strategy.started",
            "hooks.execution.completed",
            "hooks.strategy.completed",
        ):
            event = span.events.add(time_unix_nano=begin + 100, name=name)
            event.attributes.add(key="spanbus.payload.strategy").value.string_value = "fast"

    def next(self) -> bytes:
        now = time.time_ns().to_bytes(8, "little")[4:]
        return self._head + b"".join(
            self._run.replace(_TRACE, os.urandom(16))
            .replace(_SPAN, os.urandom(7))
            .replace(_RUN, os.urandom(6).hex().encode())
            .replace(_TIME, now)
            for _ in range(RUNS)
        )


class Flood:
    """Threads that send; ``taken_ms`` and ``answers`` have their results."""

    def __init__(self, port: int, spans_per_s: float, seconds: float) -> None:
        self._port, self._requests = port, Requests()
        self._every_s = RUNS * SPANS_OF_A_RUN / spans_per_s
        self._count = int(seconds / self._every_s)
        self.taken_ms: list[float] = []
        self.answers: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)
        ]

    def run(self, look: threading.Event) -> None:
        self._began = time.monotonic() + 0.5
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()
        look.set()

    def _send(self, first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Content-Type": "application/x-protobuf"}
        for number in range(first, self._count, SENDERS):
            body = self._requests.next()
            time.sleep(max(0.0, self._began + number * self._every_s - time.monotonic()))
            sent = time.perf_counter()
            try:
                connection.request("POST", "/v1/traces", body, headers)
                answer = connection.getresponse()
                answer.read()
                self.answers[str(answer.status)] += 1
            except OSError as error:
                self.answers[type(error).__name__] += 1
                connection.close()
            self.taken_ms.append((time.perf_counter() - sent) * 1e3)
        connection.close()


def flood(seconds: float, spans_per_s: float, store_mib: int) -> list[str]:
    """The limits that were exceeded."""
    with tempfile.TemporaryDirectory(prefix="spanbus-flood-") as folder:
        state, bound = Path(folder), store_mib << 20
        backend = Backend(state, free_port(), {"SPANBUS_STORE_BYTES": str(bound)})
        backend.start()
        try:
            return _flooded(backend, state, bound, seconds, spans_per_s)
        finally:
            backend.end(signal.SIGTERM)


def _flooded(
    backend: Backend, state: Path, bound: int, seconds: float, spans_per_s: float
) -> list[str]:
    done = threading.Event()
    flooding = Flood(backend.port, spans_per_s, seconds)
    threading.Thread(target=flooding.run, args=(done,)).start()
    began, most = time.monotonic(), 0
    while not done.wait(0.05):
        with suppress(OSError):
            most = max(most, sum(each.stat().st_size for each in state.glob("store.sqlite3*")))
        backend.look()
    taken_s = time.monotonic() - began - 0.5
    taken_ms = sorted(flooding.taken_ms)
    spans = flooding.answers["200"] * RUNS * SPANS_OF_A_RUN
    with sqlite3.connect(f"file:{state}/store.sqlite3?mode=ro", uri=True) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM spans").fetchone()
        size = (state / "store.sqlite3").stat().st_size
    connection.close()
    print(
        f"flood: {spans / taken_s:,.0f} spans/s of {spans_per_s:,.0f} for {taken_s:.0f} s, answers {dict(flooding.answers)}, "
        f"POST median {statistics.median(taken_ms):.1f} ms, p99 {taken_ms[len(taken_ms) * 99 // 100]:.1f} ms, longest {taken_ms[-1]:.1f} ms"
    )
    print(
        f"flood: file and log at most {most / bound:.3f} of {bound >> 20} MiB, {kept:,} spans kept, {size / kept:.0f} bytes each, "
        f"log at most {backend.most_log_bytes >> 10:,} KiB, memory {backend.most_rss_bytes >> 20} MiB"
    )
    wrong: list[str] = []
    if taken_ms[-1] > MOST_MS:
        wrong.append(f"the longest POST: {taken_ms[-1]:.1f} ms")
    if most > bound * MOST_OF_THE_BOUND:
        wrong.append(f"file and log: {most / bound:.3f} of the bound")
    if set(flooding.answers) != {"200"}:
        wrong.append(f"answers: {dict(flooding.answers)}")
    return wrong


def main() -> int:
    given = [float(each) for each in sys.argv[1:]]
    seconds, spans_per_s, store_mib = (*given, *(180.0, 30_000.0, 512.0)[len(given) :])
    wrong = flood(seconds, spans_per_s, int(store_mib))
    for line in wrong:
        print(f"flood: does not hold: {line}", file=sys.stderr)
    print("flood: everything holds" if not wrong else f"flood: {len(wrong)} do not hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
