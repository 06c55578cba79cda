"""Destination with suppressed instrumentation.

Otherwise an instrumented HTTP client or database would make spans of telemetry's own traffic, without end.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from spanbus._delivery.batches import Stored
from spanbus._delivery.outcomes import Outcome
from spanbus._delivery.sender_options import Destination
from spanbus._otlp.signals import Signal

# The context keys that instrumentations check; they have no public name.
_SUPPRESS: Final = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")


@contextmanager
def _not_instrumented() -> Generator[None]:
    if "opentelemetry.context" not in sys.modules:  # nothing is instrumented
        yield
        return
    from opentelemetry import context as otel_context

    context = otel_context.get_current()
    for name in _SUPPRESS:
        if (key := getattr(otel_context, name, None)) is not None:
            context = otel_context.set_value(str(key), True, context)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


class Quiet:
    """Wrapper of a destination."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self.name = destination.name

    @property
    def shown(self) -> str:
        return self._destination.shown

    def warm_up(self) -> None:
        with _not_instrumented():
            self._destination.warm_up()

    def probe(self, signal: Signal, timeout_s: float) -> Outcome:
        with _not_instrumented():
            return self._destination.probe(signal, timeout_s)

    def send(self, signal: Signal, records: Sequence[Stored], timeout_s: float) -> Outcome:
        with _not_instrumented():
            return self._destination.send(signal, records, timeout_s)

    def interrupt(self) -> None:
        self._destination.interrupt()

    def close(self) -> None:
        self._destination.close()
