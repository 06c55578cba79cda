"""Received requests and the answers to give, shared by both receivers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from spanbus._testing.exchange import Answer, Received


class Records:
    """Received requests; thread-safe. Each new one wakes the waiters."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._spans_taken = 0
        self._standing = Answer()
        self._next: deque[Answer] = deque()
        self._closing = threading.Event()

    def answer(self, answer: Answer) -> None:
        """Set the answer to all further requests."""
        with self._changed:
            self._standing = answer

    def answer_next(self, *answers: Answer) -> None:
        """Set the answers to the next requests, one each."""
        with self._changed:
            self._next.extend(answers)

    @property
    def requests(self) -> list[Received]:
        """All requests in the order of arrival, answered or not."""
        with self._changed:
            return list(self._received)

    def taken(self, signal: str | None = None) -> list[Received]:
        """Requests that were answered with 200."""
        return [
            request
            for request in self.requests
            if request.taken and signal in (None, request.signal)
        ]

    def spans(self) -> list[Span]:
        """Spans of all accepted requests."""
        return [span for request in self.taken("traces") for span in request.spans()]

    def metrics(self) -> list[Metric]:
        """Metrics of all accepted requests."""
        return [metric for request in self.taken("metrics") for metric in request.metrics()]

    def logs(self) -> list[LogRecord]:
        """Log records of all accepted requests."""
        return [record for request in self.taken("logs") for record in request.logs()]

    def sum_of(self, metric_name: str) -> float:
        """Sum of all delta points of one counter."""
        return sum(
            point.as_int if point.HasField("as_int") else point.as_double
            for metric in self.metrics()
            if metric.name == metric_name
            for point in metric.sum.data_points
        )

    def clear(self) -> None:
        """Forget all requests."""
        with self._changed:
            self._received.clear()
            self._spans_taken = 0

    def wait_until(self, condition: Callable[[Self], bool], timeout_s: float = 10.0) -> bool:
        """Wait until ``condition(receiver)`` holds, checked after every request. False after ``timeout_s``."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout_s)

    def wait_for(
        self, *, spans: int | None = None, requests: int | None = None, timeout_s: float = 10.0
    ) -> bool:
        """Wait until this many spans were accepted and requests received. False after ``timeout_s``."""

        def enough(records: Records) -> bool:
            return (spans is None or records._spans_taken >= spans) and (
                requests is None or len(records._received) >= requests
            )

        return self.wait_until(enough, timeout_s)

    def _choose(self) -> Answer:
        with self._changed:
            return self._next.popleft() if self._next else self._standing

    def _note(self, received: Received) -> None:
        spans = len(received.spans()) if received.taken and received.signal == "traces" else 0
        with self._changed:
            self._received.append(received)
            self._spans_taken += spans
            self._changed.notify_all()
