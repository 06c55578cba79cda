"""Fan-out of records to sinks. An exception of one sink is reported, and the others are still called."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spanbus._correlation.span_state import EventSink, SpanEvent, SpanSink, SpanState


class FanOut:
    """Reports opened, closed and noted records to every sink, in order."""

    def __init__(
        self,
        sinks: Iterable[SpanSink],
        note_sinks: Iterable[EventSink],
        children_kept: int,
        on_error: Callable[[Exception], None] | None,
    ) -> None:
        self.tell(sinks, note_sinks)
        self._children_kept = children_kept
        self._on_error = on_error
        self._disowned: dict[int, SpanState] = {}
        """Records of a parent process by ``id()``; holding them keeps the ids from being reused."""
        self.changed: dict[int, SpanState] = {}
        """Open records with new events since the last :meth:`Correlator.take_changed`, by span id."""

    def tell(self, sinks: Iterable[SpanSink], note_sinks: Iterable[EventSink]) -> None:
        """Replace the sinks. May be called by a sink."""
        self._sinks, self.note_sinks = tuple(sinks), tuple(note_sinks)
        self._on_opened = tuple([sink.opened for sink in self._sinks])
        self._on_closed = tuple([sink.closed for sink in self._sinks])

    def disown(self, records: Iterable[SpanState]) -> None:
        """Do not report the ends of these records: another process does."""
        self._disowned.update({id(record): record for record in records})
        self.changed.clear()

    def opened(self, record: SpanState) -> None:
        """Add a record to its parent, and report it."""
        parent = record.parent
        if parent is not None:
            parent.adopt(record, self._children_kept)
        for tell in self._on_opened:
            try:
                tell(record)
            except Exception as error:
                self._failed(error)

    def reopened(self, record: SpanState) -> None:
        """Report an open record that its parent already contains."""
        for sink in self._sinks:
            try:
                sink.opened(record)
            except Exception as error:
                self._failed(error)

    def closed(self, record: SpanState) -> None:
        """Report that a record has ended, and release its events."""
        parent, ended_at_ns = record.parent, record.ended_at_ns
        record.events_in_tree += record.events.total
        if parent is not None:
            parent.events_in_tree += record.events_in_tree
            if ended_at_ns is not None and ended_at_ns > parent.inner_ended_at_ns:
                parent.inner_ended_at_ns = ended_at_ns
        if not self._disowned or id(record) not in self._disowned:
            for tell in self._on_closed:
                try:
                    tell(record)
                except Exception as error:
                    self._failed(error)
        record.events.release()
        self.changed.pop(record.span_id, None)

    def noted(self, record: SpanState, event: SpanEvent) -> None:
        """Report an event at once to the event sinks."""
        for sink in self.note_sinks:
            try:
                sink.noted(record, event)
            except Exception as error:
                self._failed(error)

    def late(self, event: SpanEvent) -> None:
        """Report an event that belongs to no record."""
        for sink in self._sinks:
            try:
                sink.late(event)
            except Exception as error:
                self._failed(error)

    def call(self, function: Callable[[SpanState], None], record: SpanState) -> None:
        """Call a foreign function; report its exception."""
        try:
            function(record)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._on_error is not None:
            self._on_error(error)
