"""Histograms, counters and gauges from the correlator's output.

Counters and gauges are observable instruments that read our own integers. Durations are counted in :mod:`.durations`, or by
histograms of the application's meter provider. The run id is never an attribute, and names from users pass a cardinality
guard.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from spanbus._bounded_cache import bounded_cache
from spanbus._correlation.span_state import SpanEvent, SpanState
from spanbus._otlp.metrics_data import Metric
from spanbus._semantics import OVERFLOW, Level, names
from spanbus._telemetry.durations import DurationHistogram, ExemplarFilter
from spanbus._telemetry.meter import Observe, PlainMeter
from spanbus._telemetry.span_handle import context_of

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

Key = tuple[str | None, ...]
Number = int | float

_MAX_PHASE_SERIES: Final = 4_000
_RUN: Final = Level.RUN
_PHASE: Final = Level.PHASE
_EXECUTION: Final = Level.EXECUTION
_RETRY_ERRORS: Final = frozenset({"celery.exceptions.Retry"})
"""Exceptions that request another execution of a task; they count as retries, not as failures."""


class Guard:
    """Passes at most ``limit`` distinct values; any further value becomes ``_OTHER``."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int = names.NAMES_LIMIT) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) < self._limit:
            self._known.add(value)
            return value
        return OVERFLOW


class _Series:
    """Numbers by attribute values, read by an observable instrument. Changed under the sink's lock."""

    __slots__ = ("_attributes", "_lock", "snapshot", "values")

    def __init__(self, attributes: tuple[str, ...], lock: threading.Lock) -> None:
        self._attributes = attributes
        self._lock = lock
        self.values: dict[Key, Number] = {}
        self.snapshot: dict[Key, Number] | None = None
        """Copy of the values for the current collection."""

    def add(self, key: Key, amount: int) -> None:
        self.values[key] = self.values.get(key, 0) + amount

    def put(self, key: Key, value: Number) -> None:
        values = self.values
        if key not in values or value > values[key]:
            values[key] = value

    def read(self) -> Iterable[tuple[Number, Mapping[str, str]]]:
        """Return the copied numbers, else the current ones."""
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is None:
            with self._lock:
                snapshot = self.values.copy()
        return [
            (
                value,
                {
                    name: text
                    for name, text in zip(self._attributes, key, strict=True)
                    if text is not None
                },
            )
            for key, value in snapshot.items()
        ]


class _PhaseSeries:
    """Cached series for phases with the same names, result and error type."""

    __slots__ = ("key", "record", "result_key")

    def __init__(
        self, key: Key, result_key: Key, record: Callable[[float, SpanState], None]
    ) -> None:
        self.key, self.result_key, self.record = key, result_key, record


class MetricSink:
    """A sink that counts ended records.

    ``long_lived`` adds the number of active runs, which a killed one-shot process would leave at 1. With
    ``exemplar_filter`` durations are counted here and collected by :meth:`collect`; without it, they are recorded on
    histograms of ``meter``.
    """

    def __init__(
        self,
        meter: Meter | PlainMeter,
        *,
        long_lived: bool,
        exemplar_filter: ExemplarFilter | None = None,
    ) -> None:
        catalogue = {metric.name: metric for metric in names.METRICS}
        self._lock = threading.Lock()
        self._histograms: list[DurationHistogram] = []
        self._series: list[_Series] = []

        def durations(
            name: str,
        ) -> Callable[[Mapping[str, str]], Callable[[float, SpanState], None]]:
            metric = catalogue[name]
            if exemplar_filter is not None:
                counted = DurationHistogram(metric, self._lock, exemplar_filter)
                self._histograms.append(counted)

                return lambda attributes: counted.series(attributes).record
            assert not isinstance(meter, PlainMeter)
            histogram = meter.create_histogram(
                name,
                unit=metric.unit,
                description=metric.brief,
                explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS_S,
            )
            return lambda attributes: (
                lambda seconds, of: histogram.record(seconds, attributes, context_of(of))
            )

        def series(name: str) -> _Series:
            metric = catalogue[name]
            kept = _Series(metric.attributes, self._lock)
            self._series.append(kept)
            _observe(meter, metric, kept.read)
            return kept

        self._run_duration = durations(names.RUN_DURATION)
        self._phase_duration = durations(names.PHASE_DURATION)
        self._queue_waits = durations(names.QUEUE_WAITS)
        self._run_errors = series(names.RUN_ERRORS)
        self._run_active = series(names.RUN_ACTIVE) if long_lived else None
        self._phase_failures = series(names.PHASE_FAILURES)
        self._phase_retries = series(names.PHASE_RETRIES)
        self._phase_last = series(names.PHASE_LAST_RUN)
        self._workflow_last = series(names.WORKFLOW_LAST_RUN)
        self._events = series(names.EVENTS)
        self._workflow_guard = Guard()
        self._phase_guard = Guard()
        self._type_guard = Guard()

        def event_key(name: str) -> Key:
            key = self._type_guard(name), "recorded"
            self._events.values.setdefault(key, 0)
            return key

        self._event_keys: Callable[[str], Key] = bounded_cache(event_key, 1_000)
        self._task_type_guard = Guard()
        self._queue_guard = Guard()
        self._error_guard = Guard()
        self._phase_series: dict[Key, _PhaseSeries] = {}

    def take(self, temporality: int) -> None:
        """Copy all numbers for the next collection. Publishers are blocked only meanwhile."""
        with self._lock:
            for series in self._series:
                series.snapshot = series.values.copy()
            for histogram in self._histograms:
                histogram.take(temporality)

    def collect(self, temporality: int) -> list[Metric]:
        """Return the duration histograms."""
        return [
            metric for histogram in self._histograms for metric in histogram.collect(temporality)
        ]

    def opened(self, record: SpanState) -> None:
        if record.level is _RUN and self._run_active is not None:
            with self._lock:
                self._run_active.add(
                    (self._workflow_guard(record.workflow), names.STATE_EXECUTING), 1
                )

    def closed(self, record: SpanState) -> None:
        with self._lock:
            if record.level is _PHASE:
                self._phase_closed(record)
            elif record.level is _RUN:
                self._run_closed(record)
            elif record.level is _EXECUTION:
                self._execution_closed(record)
            counts, keys, log = self._events.values, self._event_keys, record.events
            for note in log.kept():
                counts[keys(note.name)] += 1
            if log.dropped:
                for event_type, count in log.dropped_by_type.items():
                    self._events.add((self._type_guard(event_type), "dropped"), count)

    def left(self, record: SpanState) -> None:
        """Stop counting a record as active, because another process continues it."""
        if record.level is _RUN and self._run_active is not None:
            with self._lock:
                key = self._workflow_guard(record.workflow), names.STATE_EXECUTING
                self._run_active.add(key, -1)

    def late(self, note: SpanEvent) -> None:
        """Count an event that came too late for any record; others are counted when their record ends."""
        with self._lock:
            self._events.add((self._type_guard(note.name), "dropped"), 1)

    def _phase_closed(self, record: SpanState) -> None:
        result = record.result
        if result is None or record.ended_at_ns is None:
            return
        failure = record.failure
        key = (
            record.workflow,
            record.name,
            result,
            record.task_type,
            failure.error_type if failure is not None else None,
        )
        phase_series = self._phase_series.get(key)
        if phase_series is None:
            workflow, phase = self._workflow_guard(record.workflow), self._phase_guard(record.name)
            attributes: dict[str, str] = {
                names.PIPELINE_NAME: workflow,
                names.TASK_NAME: phase,
                names.TASK_RESULT: result.value,
            }
            if record.task_type is not None:
                attributes[names.TASK_TYPE] = self._task_type_guard(record.task_type)
            self._add_error_type(record, attributes)
            phase_series = _PhaseSeries(
                (workflow, phase), (workflow, phase, result.value), self._phase_duration(attributes)
            )
            for series in (self._phase_failures, self._phase_retries):
                series.add(phase_series.key, 0)  # a phase that never fails has a series at 0
            if len(self._phase_series) < _MAX_PHASE_SERIES:
                self._phase_series[key] = phase_series
        phase_series.record(record.duration_s, record)
        if result.failed:
            self._phase_failures.add(phase_series.key, 1)
        if record.attempts != 1:
            self._phase_retries.add(phase_series.key, record.attempts - 1)
        self._phase_last.put(phase_series.result_key, record.ended_at_ns / 1e9)

    def _execution_closed(self, record: SpanState) -> None:
        """Count the queue wait. An execution for an engine's phase counts with that phase, any other as a phase itself."""
        waited_s, queue = (
            record.attributes.get(names.QUEUE_WAIT),
            record.attributes.get(names.QUEUE_NAME),
        )
        if isinstance(waited_s, float):
            attributes = {
                names.PIPELINE_NAME: self._workflow_guard(record.workflow),
                names.TASK_NAME: self._phase_guard(record.step),
            }
            if isinstance(queue, str):
                attributes[names.QUEUE_NAME] = self._queue_guard(queue)
            self._queue_waits(attributes)(waited_s, record)
        if record.of_phase is not None:
            return
        failure = record.failure
        if failure is not None and failure.error_type in _RETRY_ERRORS:
            key = self._workflow_guard(record.workflow), self._phase_guard(record.name)
            self._phase_retries.add(key, 1)
            return
        self._phase_closed(record)

    def _run_closed(self, record: SpanState) -> None:
        result = record.result
        if result is None or record.ended_at_ns is None:
            return
        workflow = self._workflow_guard(record.workflow)
        attributes: dict[str, str] = {
            names.PIPELINE_NAME: workflow,
            names.PIPELINE_RUN_STATE: names.STATE_EXECUTING,
            names.PIPELINE_RESULT: result.value,
        }
        self._add_error_type(record, attributes)
        self._run_duration(attributes)(record.duration_s, record)
        if self._run_active is not None:
            self._run_active.add((workflow, names.STATE_EXECUTING), -1)
        if result.failed:
            self._run_errors.add((workflow, attributes.get(names.ERROR_TYPE, OVERFLOW)), 1)
        self._workflow_last.put((workflow, result.value), record.ended_at_ns / 1e9)

    def _add_error_type(self, record: SpanState, attributes: dict[str, str]) -> None:
        if record.failure is not None:
            attributes[names.ERROR_TYPE] = self._error_guard(str(record.failure.error_type))


Numbers = Callable[[], Mapping[str, list[tuple[Mapping[str, str], Number]]]]
"""Returns, by metric name, pairs of attributes and value."""


def observe_numbers(meter: Meter | PlainMeter, prefix: str, read: Numbers) -> None:
    """Register the catalogue's metrics whose names begin with ``prefix``; ``read`` returns their values."""
    for metric in names.METRICS:
        if not metric.name.startswith(prefix):
            continue

        def numbers(name: str = metric.name) -> Iterable[tuple[Number, Mapping[str, str]]]:
            return [(value, attributes) for attributes, value in read().get(name, [])]

        _observe(meter, metric, numbers)


def _observe(meter: Meter | PlainMeter, metric: names.Metric, read: Observe) -> None:
    """Create the observable instrument of a metric."""
    if isinstance(meter, PlainMeter):
        meter.observe(metric, read)
        return
    from opentelemetry.metrics import Observation

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        del options
        return [Observation(value, attributes) for value, attributes in read()]

    create: Callable[..., object] = (
        meter.create_observable_gauge
        if metric.instrument == "gauge"
        else meter.create_observable_up_down_counter
        if metric.instrument == "updowncounter"
        else meter.create_observable_counter
    )
    create(metric.name, callbacks=[observe], unit=metric.unit, description=metric.brief)
