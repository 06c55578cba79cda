"""The runtime: bus, correlators, spans, metrics, delivery and local store of one owner."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast

from spanbus._loggers import load
from spanbus._runtime.carrying import carrier_for
from spanbus._runtime.dialects import dialect_named, usual_dialect
from spanbus._runtime.keeper import Keeper
from spanbus._runtime.lazy_sinks import LazySinks
from spanbus._runtime.opened import close_with_multiprocessing, opened
from spanbus._runtime.refused import hidden_variables
from spanbus._settings import STORE_NAME, Settings, load_settings, with_arguments
from spanbus._settings.arguments import Arguments
from spanbus._workflow.identity import parse_traceparent
from spanbus.errors import InputError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider as TracerProviderApi

    from spanbus._attaching.attach import Mode, Subscribing
    from spanbus._attaching.handle import Handle
    from spanbus._attaching.record import Recorder
    from spanbus._correlation.correlator import Correlator
    from spanbus._correlation.limits import Limits
    from spanbus._correlation.span_state import SpanState
    from spanbus._delivery.statistics import DeliveryStatistics
    from spanbus._reading.dialect import Dialect
    from spanbus._runs.summary import RunSummary
    from spanbus._runtime.dialects import DialectLike
    from spanbus._wiring import Wiring
    from spanbus._workflow.bus import WorkflowEventBus
    from spanbus._workflow.definition import Workflow
    from spanbus._workflow.engine import PhaseExecution, RunOptions, RunResult

logger = load("spanbus")  # a real logger, because the libraries loaded here import logging anyway

Lifetime = Literal["run", "service"]

RUNS_KEPT = 100


class Runtime:
    """Everything from the bus to the spool.

    Use it as ``with`` or ``async with``, or call :meth:`open` and :meth:`close`; both may be called twice. ``lifetime`` decides
    how metrics are exported: ``run`` for a process of one run (delta temporality, resource attribute ``spanbus.lifetime=run``),
    ``service`` for a long-lived process (the SDK's default). ``SPANBUS_LIFETIME`` overrides it. ``tell`` is called with the rare
    line about an outage, which otherwise goes to stderr. ``attributes`` are added to the resource.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        lifetime: Lifetime = "service",
        command_line: bool = False,
        provide: bool = False,
        env: Mapping[str, str] | None = None,
        tell: Callable[[str], None] | None = None,
        attributes: Mapping[str, str] | None = None,
        **arguments: Unpack[Arguments],
    ) -> None:
        self._arguments = arguments
        self._tell = tell
        self._attributes = attributes
        self._given_settings = settings
        self._wanted_lifetime: Lifetime = lifetime
        self._command_line = command_line
        self._provide = provide
        self._env: Mapping[str, str] = os.environ if env is None else env
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._correlators: list[tuple[weakref.ref[Handle], Correlator]] = []
        self._ended: deque[SpanState] = deque(maxlen=RUNS_KEPT)
        self._lock = threading.RLock()
        self._state: Literal["new", "open", "closed"] = "new"
        self._bus: WorkflowEventBus | None = None
        self._wiring: Wiring | None = None
        self._keeper: Keeper | None = None
        self._carrier: Any = None
        """Carrier of the events of our bus to NATS, if configured."""

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Open the runtime; nothing is sent yet. Raises :class:`~spanbus.errors.SettingsError` for unusable settings."""
        with self._lock:
            if self._state != "new":
                return self
            self.settings: Settings = (
                self._given_settings
                if self._given_settings is not None
                else load_settings(env=self._env, strict=self._command_line)
            )
            if self._arguments:
                self.settings = with_arguments(
                    self.settings, cast("Mapping[str, object]", self._arguments)
                )
            self.lifetime: Lifetime = self.settings.lifetime or self._wanted_lifetime
            self.off = self.settings.sdk_disabled and not self._command_line
            self._state = "open"
            for warning in self.settings.warnings:
                logger.warning("%s", warning)
            self.handle: Handle = self._handle("the runtime's bus", "spanbus", expects_events=False)
            opened.append(self)
            if self._command_line:
                self.wiring()
            elif self.lifetime == "service":
                self._prepare()
            if self._provide and not self.settings.sdk_disabled:
                with hidden_variables(self.settings.refused):
                    self.wiring().provide()
        return self

    def close(self, timeout_s: float | None = None) -> None:
        """End open spans as abandoned and deliver within ``timeout_s`` seconds, by default the exit limit."""
        with self._lock:
            if self._state != "open":
                return
            self._state = "closed"
        if self in opened:
            opened.remove(self)
        for handle in list(self._handles):
            handle.detach()
        self._close_abandoned()
        if self._keeper is not None:
            self._keeper.stop()
        carrier = self._carrier
        limit_s = self.settings.exit_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit_s
        if carrier is not None:
            carrier.begin_close(limit_s)
        if self._wiring is not None:
            self._wiring.close(timeout_s)
        if carrier is not None:
            carrier.close(max(0.0, deadline_s - time.monotonic()))

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.open()

    async def __aexit__(self, *error: object) -> None:
        import anyio
        import anyio.to_thread

        with anyio.CancelScope(shield=True):  # within the exit limit, cancelled or not
            await anyio.to_thread.run_sync(self.close)

    # --- use ----------------------------------------------------------------------------------------------------------

    @property
    def bus(self) -> WorkflowEventBus:
        """Our own bus, observed by :attr:`handle`; created lazily, because a hand-fed runtime needs none."""
        with self._lock:
            if self._bus is None:
                from spanbus._attaching.attach import attach
                from spanbus._workflow.bus import WorkflowEventBus

                bus = WorkflowEventBus()
                attach(bus, self.handle)
                self._carrier = carrier_for(bus, self.settings, command_line=self._command_line)
                if self._wiring is not None and self._carrier is not None:
                    self._wiring.carrier_statistics = self._carrier.delivery
                self._bus = bus
            return self._bus

    def instrument(
        self,
        bus: object,
        *,
        mode: Mode = "auto",
        dialect: DialectLike | None = None,
        subscribe: Subscribing | None = None,
        record: str | Path | None = None,
    ) -> Handle:
        """Observe ``bus`` with this runtime; returns the same handle when it is observed already."""
        from spanbus._attaching.adapters import adapter_of
        from spanbus._attaching.attach import attach, checked, watching

        mode = checked(mode)
        known = watching(bus)
        if known is not None:
            return known
        adapter = adapter_of(bus) if subscribe is None and bus is not None else None
        if dialect is None:
            found = adapter.dialect_for(bus) if adapter is not None else None
            dialect = cast("DialectLike | None", found)
        handle = self._handle(_label(bus), dialect or usual_dialect(type(bus)))
        if record is not None:
            handle.records_to(self._recorder(record))
        attach(bus, handle, mode=mode, adapter=adapter, subscribing=subscribe)
        self._prepare()
        return handle

    def instrument_class(
        self,
        kind: type,
        *,
        mode: Mode = "wrap",
        dialect: DialectLike | None = None,
        record: str | Path | None = None,
    ) -> Handle:
        """Observe every instance of a bus class, including future ones."""
        from spanbus._attaching.attach import attach_class, checked

        mode = checked(mode)
        if not isinstance(kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"instrument_class takes a class, not an instance of {type(kind).__name__}; use spanbus.instrument for that"
            )
        handle = self._handle(kind.__name__, dialect or usual_dialect(kind))
        if record is not None:
            handle.records_to(self._recorder(record))
        attach_class(kind, handle, mode=mode)
        self._prepare()
        return handle

    def _recorder(self, path: str | Path) -> Recorder:
        from spanbus._attaching.record import Recorder
        from spanbus._telemetry.redaction import Redactor

        settings = self.settings
        return Recorder(Path(path), Redactor(settings.redact, patterns=settings.redact_patterns))

    def _prepare(self) -> None:
        """Do the imports that would otherwise delay the first publisher."""
        if self.off or self._wiring is not None:
            return
        try:
            with hidden_variables(self.settings.refused):
                from spanbus._wiring.preparing import prepare

                prepare(self.settings, self.settings.usable(self._env))
        except Exception as error:  # the first event meets the same error, and logs it
            logger.debug("prepare", exc_info=error)

    def replaying(
        self,
        ended: Callable[[SpanState], None],
        *,
        dialect: str | Path | None = None,
        limits: Limits | None = None,
    ) -> Handle:
        """Return a handle to feed with a recorded stream; ``ended`` is called with each run that ends."""
        return self._handle(
            "a recorded stream",
            dialect,
            ended=ended,
            live=False,
            expects_events=False,
            limits=limits,
        )

    def dialect(self, name: DialectLike | None = None) -> Dialect:
        """Return a dialect by name (built in, or of the settings), by file, or from the table of such a file.

        Raises :class:`~spanbus.errors.DialectError`.
        """
        return dialect_named(name, self.settings.dialects)

    async def run(self, workflow: Workflow, **options: Unpack[RunOptions]) -> RunResult:
        """Run ``workflow`` on this runtime's bus; raises as :meth:`BasicWorkflowEngine.run` does.

        The run is a child of ``traceparent``, else of the caller's current span, else of ``TRACEPARENT`` in the environment.
        """
        from spanbus._workflow.engine import BasicWorkflowEngine

        traceparent = options.get("traceparent")
        if traceparent is not None and parse_traceparent(traceparent) is None:
            raise InputError(
                f"{traceparent[:100]!r} is not a W3C traceparent (00-<32 hex digits>-<16 hex digits>-<2 hex digits>)"
            )
        if traceparent is None and not self.settings.sdk_disabled:
            options["traceparent"], options["tracestate"] = self._caller()
        return await BasicWorkflowEngine(self.bus, around=self._around).run(workflow, options)

    def summaries(self) -> list[RunSummary]:
        """Summaries of the last 100 runs that ended here, oldest first."""
        from spanbus._runs.summary import summarise

        return [summarise(record, self.wiring().template) for record in list(self._ended)]

    def sampled(self, run_id: str) -> bool:
        """Whether the sampler kept the spans of a run that ended here; true for an unknown run."""
        from spanbus._telemetry.span_handle import span_context_of

        contexts = [
            span_context_of(record) for record in list(self._ended) if record.run_id == run_id
        ]
        return all(context is None or context.trace_flags.sampled for context in contexts)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all spooled records are acknowledged; False when that took longer than ``timeout_s`` seconds."""
        deadline_s = time.monotonic() + timeout_s
        complete = self._wiring.flush(timeout_s) if self._wiring is not None else True
        if self._carrier is not None:
            complete = self._carrier.flush(max(0.0, deadline_s - time.monotonic())) and complete
        return complete

    def statistics(self) -> DeliveryStatistics | None:
        """Delivery counts; None before the first event, and when the application's own providers are used."""
        return self._wiring.statistics() if self._wiring is not None else None

    @property
    def store_path(self) -> Path:
        """Path of the local store in the state directory."""
        return self.settings.state_dir / STORE_NAME

    @property
    def tracer_provider(self) -> TracerProviderApi | None:
        """TracerProvider of the spans, for spans of your own; None when telemetry is off."""
        return self.wiring().tracer_provider if not self.settings.sdk_disabled else None

    # --- wiring -------------------------------------------------------------------------------------------------------

    def wiring(self) -> Wiring:
        """Providers, sinks and pipeline; created lazily, and again in a forked child."""
        with self._lock:
            if self._wiring is None:
                with hidden_variables(self.settings.refused):
                    from spanbus._wiring import Wiring

                    self._wiring = Wiring(
                        self.settings,
                        lifetime=self.lifetime,
                        command_line=self._command_line,
                        env=self.settings.usable(self._env),
                        store_path=self.store_path,
                        paused=self._paused,
                        tell=self._tell,
                        attributes=self._attributes,
                    )
                if self._carrier is not None:
                    self._wiring.carrier_statistics = self._carrier.delivery
                self._keeper = Keeper(self.tick_correlators, self._wiring.tick)
                self._keeper.start()
                if "multiprocessing" in sys.modules:
                    close_with_multiprocessing(self)
            return self._wiring

    def tick_correlators(self) -> list[SpanState]:
        """Tick every correlator; return the open spans that changed since the last tick."""
        found: list[SpanState] = []
        self._close_abandoned()
        for handle in list(self._handles):
            handle.tick()
            handle.correlator.tick()
            found.extend(handle.correlator.take_changed())
        return found

    def _close_abandoned(self) -> None:
        """End the open spans of collected buses and detached handles as abandoned: no event will end them."""
        done = [
            (known, correlator)
            for known, correlator in list(self._correlators)
            if (handle := known()) is None or handle.detached or handle.bus_is_gone
        ]
        for _, correlator in done:
            correlator.close()
        with self._lock:
            self._correlators = [kept for kept in self._correlators if kept not in done]

    @contextmanager
    def _paused(self) -> Generator[None]:
        with ExitStack() as stack:
            for handle in sorted(self._handles, key=id):
                stack.enter_context(handle.correlator.paused())
            yield

    def _handle(
        self,
        label: str,
        dialect: DialectLike | None,
        *,
        ended: Callable[[SpanState], None] | None = None,
        live: bool = True,
        expects_events: bool = True,
        limits: Limits | None = None,
    ) -> Handle:
        from spanbus._attaching.handle import Handle
        from spanbus._correlation.correlator import Correlator
        from spanbus._reading.reader import Reader

        def sink_failed(error: Exception) -> None:
            if (handle := known()) is not None:
                handle.failed(error)

        rules = self.dialect(dialect)
        correlator = Correlator(
            policy=rules.policy,
            limits=limits,
            caller=self._caller if live else None,
            live=live,
            on_sink_error=sink_failed,
            on_run_ended=ended or (self._ended.append if self._command_line else None),
        )
        handle = Handle(
            correlator,
            Reader(rules),
            label=label,
            off=self.off,
            expects_events=expects_events,
        )
        known = weakref.ref(handle)
        if not self.settings.sdk_disabled:
            lazily = LazySinks(self.wiring, known)
            correlator.tell((lazily,))
            correlator.on_waiting = lazily.wire
        self._handles.add(handle)
        with self._lock:
            self._correlators.append((known, correlator))
        return handle

    def _caller(self) -> tuple[str | None, str | None]:
        from spanbus._telemetry.context import current, incoming

        came = current()
        if came.traceparent is None:
            came = incoming(self._env)
        return came.traceparent, came.tracestate

    @contextmanager
    def _around(self, execution: PhaseExecution) -> Generator[Mapping[str, str]]:
        """Make the phase's span current; yields the environment variables that pass its context to child processes."""
        record = (
            self.handle.correlator.innermost(execution.run_id, execution.phase)
            if not self.settings.sdk_disabled
            else None
        )
        if record is None:
            yield {}
            return
        from opentelemetry import context as otel_context

        from spanbus._telemetry.context import attached, outgoing, with_baggage
        from spanbus._telemetry.span_handle import context_of

        redactor = self.wiring().template.redactor
        context = with_baggage(context_of(record, otel_context.get_current(), redactor), self._env)
        with attached(context):
            yield outgoing(context)

    def forked(self) -> None:
        """In a child process: drop the parent's threads and counts; the next event creates new ones."""
        self._lock = threading.RLock()
        wiring, self._wiring, self._keeper = self._wiring, None, None
        self._ended.clear()
        self._correlators = [kept for kept in self._correlators if kept[0]() is not None]
        if wiring is not None:
            wiring.forked()
        self.parent_forked()
        for handle in list(self._handles):
            handle.correlator.forked(
                () if self.settings.sdk_disabled else (LazySinks(self.wiring, weakref.ref(handle)),)
            )

    def parent_forked(self) -> None:
        """After a fork, events may arrive in only one of the processes: do not warn about missing ones."""
        for handle in list(self._handles):
            handle.expect_nothing()


def _label(bus: object) -> str:
    """Name of the bus for warnings."""
    return bus.__name__ if isinstance(bus, type | ModuleType) else type(bus).__name__
