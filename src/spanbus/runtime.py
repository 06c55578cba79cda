"""The composition root: it wires bus, recorder, spans, metrics, delivery with the local store.

One :class:`Runtime` is one set of these. ``open_runtime`` gives one of your own; ``instrument`` without one opens the
process's default runtime, which is closed at exit. Providers that the application has set are used and never replaced;
they are looked up when the first event arrives, so that it does not matter which line comes first.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, Unpack, cast

from spanbus.errors import DialectError, InputError
from spanbus.settings import Arguments, Settings, load_settings, with_arguments
from spanbus.workflow.identity import parse_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider as TracerProviderApi

    from spanbus.delivery.statistics import DeliveryStatistics
    from spanbus.telemetry.context import Incoming
    from spanbus.telemetry.dialect import Dialect
    from spanbus.telemetry.handle import Handle
    from spanbus.telemetry.instrument import Mode
    from spanbus.telemetry.recorder import Recorder
    from spanbus.telemetry.records import EventNote, Record, RecordSink
    from spanbus.telemetry.summary import RunSummary
    from spanbus.wiring import Wiring
    from spanbus.workflow.bus import WorkflowEventBus
    from spanbus.workflow.definition import Workflow
    from spanbus.workflow.engine import PhaseExecution, RunResult
    from spanbus.workflow.process import Interruption

logger = logging.getLogger("spanbus")

Lifetime = Literal["run", "service"]

STORE_NAME = "store.sqlite3"
TICK_S = 0.25
RUNS_KEPT = 100


class Runtime:
    """Everything wired together, from the bus to the spool.

    Use it as ``with`` or ``async with``, or call :meth:`open` and :meth:`close`; both may be called twice. ``lifetime``
    says how metrics are exported: ``run`` for a process that lives for one run (delta temporality, resource attribute
    ``spanbus.lifetime=run``), ``service`` for one that lives on (the SDK's default); ``SPANBUS_LIFETIME`` overrides it. ``tell``
    takes the rare line about an outage, which else goes to stderr.
    """

    def __init__(
        self, settings: Settings | None = None, *, lifetime: Lifetime = "service", command_line: bool = False,
        env: Mapping[str, str] | None = None, tell: Callable[[str], None] | None = None, **arguments: Unpack[Arguments],
    ) -> None:
        self._arguments = arguments
        self._tell = tell
        self._given_settings = settings
        self._wanted_lifetime: Lifetime = lifetime
        self._command_line = command_line
        self._env: Mapping[str, str] = os.environ if env is None else env
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._recorders: list[tuple[weakref.ref[Handle], Recorder]] = []
        self._ended: deque[Record] = deque(maxlen=RUNS_KEPT)
        self._lock = threading.RLock()
        self._state: Literal["new", "open", "closed"] = "new"
        self._wiring: Wiring | None = None
        self._keeper: _Keeper | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def open(self) -> Self:
        """Make it ready; nothing is sent yet. Raises :class:`~spanbus.errors.SettingsError` for settings that cannot be used."""
        with self._lock:
            if self._state != "new":
                return self
            from spanbus.workflow.bus import WorkflowEventBus

            self.settings: Settings = (
                self._given_settings if self._given_settings is not None else load_settings(env=self._env, strict=self._command_line)
            )
            if self._arguments:
                self.settings = with_arguments(self.settings, cast("Mapping[str, object]", self._arguments))
            self.lifetime: Lifetime = self.settings.lifetime or self._wanted_lifetime
            self.bus: WorkflowEventBus = WorkflowEventBus()
            self.off = self.settings.sdk_disabled and not self._command_line
            self._state = "open"
            for warning in self.settings.warnings:
                logger.warning("%s", warning)
            from spanbus.telemetry.instrument import attach

            self.handle: Handle = attach(self.bus, self._handle("the runtime's bus", "spanbus", expects_events=False))
            _open.append(self)
            if self._command_line:
                self.wiring()
        return self

    def close(self, timeout_s: float | None = None) -> None:
        """End what is open as abandoned and deliver what can be delivered within ``timeout_s``, by default the exit limit."""
        with self._lock:
            if self._state != "open":
                return
            self._state = "closed"
        if self in _open:
            _open.remove(self)
        for handle in list(self._handles):
            handle.detach()
        self._close_left()
        if self._keeper is not None:
            self._keeper.stop()
        if self._wiring is not None:
            self._wiring.close(timeout_s)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.open()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import anyio
        import anyio.to_thread

        with anyio.CancelScope(shield=True):  # within the exit limit, cancelled or not
            await anyio.to_thread.run_sync(self.close)

    # --- use ----------------------------------------------------------------------------------------------------------

    def instrument(self, bus: object, *, mode: Mode = "observe", dialect: str | Path | None = None) -> Handle:
        """Observe ``bus`` with this runtime; the same handle when it is observed already."""
        from spanbus.telemetry.instrument import attach, watching

        known = watching(bus)
        if known is not None:
            return known
        return attach(bus, self._handle(type(bus).__name__, dialect or _usual_dialect(type(bus))), mode=mode)

    def instrument_class(self, kind: type, *, dialect: str | Path | None = None) -> Handle:
        """Observe every instance of a bus class, those to come too."""
        from spanbus.telemetry.instrument import attach_class

        if not isinstance(kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"instrument_class takes a class, not an instance of {type(kind).__name__}; use spanbus.instrument for that")
        return attach_class(kind, self._handle(kind.__name__, dialect or _usual_dialect(kind)))

    def replaying(self, ended: Callable[[Record], None], *, dialect: str | Path | None = None) -> Handle:
        """A handle to be fed with a recorded stream; ``ended`` gets each run as it ends."""
        return self._handle("a recorded stream", dialect, ended=ended, live=False, expects_events=False)

    def dialect(self, name: str | Path | None = None) -> Dialect:
        """A dialect by name (built in, or of the settings) or file. Raises :class:`~spanbus.errors.DialectError`."""
        from spanbus.telemetry.dialect_file import BUILT_IN, load

        named = self.settings.dialects
        if name is None:
            return load("spanbus")
        if named and str(name) not in (*BUILT_IN, *named) and not Path(name).exists():
            from difflib import get_close_matches

            near = get_close_matches(str(name), (*BUILT_IN, *named), 1)
            raise DialectError(
                f"no dialect {str(name)!r}: neither built in ({', '.join(BUILT_IN)}), nor of the settings ({', '.join(named)}), nor a file"
                f"{f'; did you mean {near[0]!r}?' if near else ''}"
            )
        return load(named.get(str(name), name))

    async def run(
        self, workflow: Workflow, *, run_id: str | None = None, only: Collection[str] = (), skip: Collection[str] = (),
        output: Callable[[str, str, str], None] | None = None, cwd: Path | None = None, inherit: bool = False, rerun_of: str | None = None,
        traceparent: str | None = None, tracestate: str | None = None, interrupt_reason: Callable[[], str] | None = None,
        interruption: Callable[[], Interruption | None] | None = None, concurrency: int | None = None,
    ) -> RunResult:
        """Run ``workflow`` on this runtime's bus; see :meth:`BasicWorkflowEngine.run` for what is raised.

        The run is a child of ``traceparent``, else of the caller's current span, else of ``TRACEPARENT`` in the environment.
        """
        from spanbus.workflow.engine import BasicWorkflowEngine, RunOptions

        if traceparent is not None and parse_traceparent(traceparent) is None:
            raise InputError(f"{traceparent[:100]!r} is not a W3C traceparent (00-<32 hex digits>-<16 hex digits>-<2 hex digits>)")
        if traceparent is None and not self.settings.sdk_disabled:
            came = self._caller()
            traceparent, tracestate = came.traceparent, came.tracestate
        engine = BasicWorkflowEngine(self.bus, around=self._around, interrupt_reason=interrupt_reason, concurrency=concurrency)
        options = RunOptions(
            run_id=run_id, only=only, skip=skip, traceparent=traceparent, tracestate=tracestate, rerun_of=rerun_of, cwd=cwd, output=output,
            inherit=inherit, interruption=interruption,
        )
        return await engine.run(workflow, options)

    def summaries(self) -> list[RunSummary]:
        """The runs that ended here, oldest first, at most the last hundred of them."""
        from spanbus.telemetry.summary import summarise

        return [summarise(record, self.wiring().rendering) for record in list(self._ended)]

    def sampled(self, run_id: str) -> bool:
        """Whether the spans of a run that ended here are kept, as the sampler decided; true for one that is not known."""
        from spanbus.telemetry.rendering import span_context_of

        contexts = [span_context_of(record) for record in list(self._ended) if record.run_id == run_id]
        return all(context is None or context.trace_flags.sampled for context in contexts)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until what was spooled is acknowledged; False when it took longer than ``timeout_s`` seconds."""
        return self._wiring.flush(timeout_s) if self._wiring is not None else True

    def statistics(self) -> DeliveryStatistics | None:
        """Delivery's counts; None before the first event, and when the application's own providers are used."""
        return self._wiring.statistics() if self._wiring is not None else None

    @property
    def store_path(self) -> Path:
        """Where the local store of this state directory is."""
        return self.settings.state_dir / STORE_NAME

    @property
    def tracer_provider(self) -> TracerProviderApi | None:
        """The provider that the spans go to, for spans of your own; None when telemetry is off."""
        return self.wiring().tracer_provider if not self.settings.sdk_disabled else None

    # --- wiring -------------------------------------------------------------------------------------------------------

    def wiring(self) -> Wiring:
        """Providers, sinks and pipeline; made when they are first needed, and again in a forked child."""
        with self._lock:
            if self._wiring is None:
                from spanbus.wiring import Wiring

                self._wiring = Wiring(
                    self.settings, lifetime=self.lifetime, command_line=self._command_line, env=self.settings.usable(self._env), store_path=self.store_path,
                    paused=self._paused, tell=self._tell,
                )
                self._keeper = _Keeper(self, self._wiring)
                self._keeper.start()
                if "multiprocessing" in sys.modules:
                    _close_with_multiprocessing(self)
            return self._wiring

    def recorders_tick(self) -> list[Record]:
        """Let time pass for every recorder; what is open now."""
        now_ns = time.time_ns()
        found: list[Record] = []
        self._close_left()
        for handle in list(self._handles):
            handle.recorder.tick(now_ns)
            found.extend(handle.recorder.open_records())
        return found

    def _close_left(self) -> None:
        """A bus that is gone, with its handle, announces no end any more: what was open on it ends as abandoned."""
        done = [(known, recorder) for known, recorder in list(self._recorders) if (handle := known()) is None or handle.detached]
        for _, recorder in done:
            recorder.close()
        with self._lock:
            self._recorders = [kept for kept in self._recorders if kept not in done]

    @contextmanager
    def _paused(self) -> Generator[None]:
        with ExitStack() as stack:
            for handle in sorted(self._handles, key=id):
                stack.enter_context(handle.recorder.paused())
            yield

    def _handle(
        self, label: str, dialect: str | Path | None, *, ended: Callable[[Record], None] | None = None, live: bool = True,
        expects_events: bool = True,
    ) -> Handle:
        from spanbus.telemetry.handle import Handle
        from spanbus.telemetry.recorder import Recorder

        def sink_failed(error: Exception) -> None:
            if (handle := known()) is not None:
                handle.failed(error)

        recorder = Recorder(on_sink_error=sink_failed, on_run_ended=ended or (self._ended.append if self._command_line else None))
        handle = Handle(recorder, self.dialect(dialect), label=label, caller=self._caller if live else None, off=self.off, expects_events=expects_events)
        known = weakref.ref(handle)
        if not self.settings.sdk_disabled:
            recorder.tell((_Lazily(self, known),))
        self._handles.add(handle)
        with self._lock:
            self._recorders.append((known, recorder))
        return handle

    def _caller(self) -> Incoming:
        from spanbus.telemetry.context import current, incoming

        came = current()
        return came if came.traceparent is not None else incoming(self._env)

    @contextmanager
    def _around(self, execution: PhaseExecution) -> Generator[Mapping[str, str]]:
        """The phase's span is current inside it; its children get its context in their environment."""
        record = self.handle.recorder.innermost(execution.run_id, execution.phase) if not self.settings.sdk_disabled else None
        if record is None:
            yield {}
            return
        from opentelemetry import context as otel_context

        from spanbus.telemetry.context import attached, outgoing, with_baggage
        from spanbus.telemetry.rendering import context_of

        context = with_baggage(context_of(record, otel_context.get_current()), self._env)
        with attached(context):
            yield outgoing(context)

    def forked(self) -> None:
        """In a child process: threads are gone and what was counted is the parent's; begin afresh when there is something."""
        self._lock = threading.RLock()
        wiring, self._wiring, self._keeper = self._wiring, None, None
        self._ended.clear()
        self._recorders = [kept for kept in self._recorders if kept[0]() is not None]
        if wiring is not None:
            wiring.forked()
        self.has_forked()
        for handle in list(self._handles):
            handle.recorder.forked(() if self.settings.sdk_disabled else (_Lazily(self, weakref.ref(handle)),))

    def has_forked(self) -> None:
        """There are two processes now, and it is no mistake when events come in one of them only."""
        for handle in list(self._handles):
            handle.expect_nothing()


def _usual_dialect(kind: type) -> str:
    """Our own bus has its own; any other is read by the rules for buses that nobody has described, which know the described ones."""
    from spanbus.workflow.bus import WorkflowEventBus

    return "spanbus" if issubclass(kind, WorkflowEventBus) else "generic"


class _Lazily:
    """Stands where the sinks of a runtime will be: wires them when the first record opens, and gives its place to them."""

    def __init__(self, runtime: Runtime, handle: Callable[[], Handle | None]) -> None:
        self._runtime = weakref.ref(runtime)
        self._handle = handle

    def opened(self, record: Record) -> None:
        for sink in self._wired():
            sink.opened(record)

    def closed(self, record: Record) -> None:
        for sink in self._wired():
            sink.closed(record)

    def late(self, note: EventNote) -> None:
        for sink in self._wired():
            sink.late(note)

    def _wired(self) -> tuple[RecordSink, ...]:
        runtime, handle = self._runtime(), self._handle()
        if runtime is None or handle is None:
            return ()
        wiring = runtime.wiring()
        handle.recorder.tell(wiring.sinks, wiring.note_sinks)
        return wiring.sinks


class _Keeper:
    """One daemon thread that lets time pass: held failures, the journal of what is open, collections of metrics."""

    def __init__(self, runtime: Runtime, wiring: Wiring) -> None:
        self._runtime = weakref.ref(runtime)
        self._wiring = wiring
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spanbus-keeper", daemon=True)

    def start(self) -> None:
        with suppress(RuntimeError):  # no more threads: what is collected at the end has to do
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(0.1)

    def _work(self) -> None:
        while not self._stop.wait(TICK_S):
            runtime = self._runtime()
            if runtime is None:
                return
            try:
                self._wiring.tick(runtime.recorders_tick())
            except Exception as error:  # a wall: the keeper outlives its errors
                logger.debug("keeper", exc_info=error)
            del runtime


# --- the process's runtimes -------------------------------------------------------------------------------------------

_open: list[Runtime] = []
_default: Runtime | None = None
_default_lock = threading.Lock()


def open_runtime(
    settings: Settings | None = None, *, lifetime: Lifetime = "service", command_line: bool = False, env: Mapping[str, str] | None = None,
    **arguments: Unpack[Arguments],
) -> Runtime:
    """A runtime for ``async with``: a setting is the argument of its name, else from ``settings``, else from environment,
    ``[tool.spanbus]`` and defaults.

    Entering raises :class:`~spanbus.errors.SettingsError` for settings that cannot be used. Leaving delivers what can be
    delivered within the exit limit, also when cancelled; what is left waits in the spool.
    """
    return Runtime(settings, lifetime=lifetime, command_line=command_line, env=env, **arguments)


def open_runtime_sync(
    settings: Settings | None = None, *, lifetime: Lifetime = "service", command_line: bool = False, env: Mapping[str, str] | None = None,
    **arguments: Unpack[Arguments],
) -> AbstractContextManager[Runtime]:
    """The same for plain programs: ``with open_runtime_sync() as runtime``."""
    return Runtime(settings, lifetime=lifetime, command_line=command_line, env=env, **arguments)


def instrument(bus: object, *, mode: Mode = "observe", dialect: str | Path | None = None) -> Handle:
    """The one line: each phase announced on ``bus`` becomes a span, each event a span event, counted and timed.

    ``mode`` ``observe`` subscribes and nothing else; ``wrap`` also makes phases current in the task that publishes them, so
    that spans made inside nest. ``dialect`` names how events are read: built in, of the settings, or a file. A bus that is
    observed already gives the handle it has; None instead of a bus gives one to be fed by hand, ``handle.feed(event)``.
    Raises :class:`~spanbus.errors.InputError` for an object that cannot be subscribed to; never raises into the workflow
    afterwards.
    """
    return current_runtime().instrument(bus, mode=mode, dialect=dialect)


def instrument_class(kind: type, *, dialect: str | Path | None = None) -> Handle:
    """Every instance of a bus class, those to come too; ``detach`` on the handle takes it back."""
    return current_runtime().instrument_class(kind, dialect=dialect)


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until everything that this process spooled was acknowledged; False when that took longer than ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    return all([runtime.flush(max(0.0, deadline - time.monotonic())) for runtime in list(_open)])


def current_runtime() -> Runtime:
    """The runtime opened last, else the process's default one, opened now."""
    global _default
    if _open:
        return _open[-1]
    with _default_lock:
        if _default is None or _default not in _open:
            _default = Runtime().open()
        return _default


def _close_all() -> None:
    for runtime in reversed(list(_open)):
        runtime.close()


def _close_with_multiprocessing(runtime: Runtime) -> None:
    """Children of ``multiprocessing`` leave by ``os._exit`` and run no ``atexit``, but its own finalizers."""
    from multiprocessing import util

    weakly = weakref.ref(runtime)

    def close() -> None:
        opened = weakly()
        if opened is not None:
            opened.close()

    util.Finalize(None, close, exitpriority=0)


def _forked() -> None:
    global _default_lock
    _default_lock = threading.Lock()
    for runtime in _open:
        runtime.forked()


def _has_forked() -> None:
    for runtime in _open:
        runtime.has_forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked, after_in_parent=_has_forked)
