"""Airflow 3: a DAG run is a run; a task instance is a phase, or an execution if it runs in a separate process."""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spanbus._attaching.task_ends import ended_with
from spanbus._attaching.work import Work
from spanbus._runtime import current_runtime
from spanbus._semantics import Failure, Result
from spanbus._telemetry.redaction import Redactor
from spanbus._workflow.identity import TraceContext, run_span_id, trace_id_of
from spanbus.adapters import _watching
from spanbus.errors import InputError
from spanbus.integrations.executions import Delivery, Executions, RunRef

if TYPE_CHECKING:
    from spanbus import Handle

DIALECT = {"name": "airflow", "extends": "generic", "run_ids": "unique"}
_RUNNER = "airflow.sdk.execution_time.task_runner"
_AGAIN = "up_for_retry"
_FAILED = "failed"
_SKIPPED = "skipped"
_LEFT_OUT = ("skipped", "upstream_failed")
_BY_HAND = "manually set"
_WAITING = ("deferred", "up_for_reschedule", "awaiting_input")


def attach(target: Any, handle: Handle) -> None:
    """Record the DAG runs and task instances of this process. ``target`` is the module ``airflow``."""
    if not isinstance(target, ModuleType):
        raise InputError("instrument the module: spanbus.instrument(airflow)")
    created = _create_listener(lambda: handle, handle.add_undo)
    manager: Any = import_module("airflow.listeners.listener").get_listener_manager()
    manager.add_listener(created)

    def undo() -> None:
        manager.pm.unregister(created)

    handle.add_undo(undo)


def listener() -> object:
    """Return the listener for an Airflow plugin. It instruments a process at its first DAG run or task instance."""
    return _listener()


@functools.cache
def _listener() -> object:
    """Cached: Airflow loads its plugins twice in some processes."""
    import spanbus

    @functools.cache
    def handle() -> Handle:
        return spanbus.instrument(None, dialect=DIALECT)

    return _create_listener(handle, lambda undo: None)


def _create_listener(
    handle: Callable[[], Handle], undo: Callable[[Callable[[], None]], None]
) -> object:
    """Return a listener of DAG runs, and wrap the task runner: listeners receive few ends of task instances."""
    try:
        hookimpl: Any = import_module("pluggy").HookimplMarker("airflow")
        tasks = _Tasks(handle)
        undo(_watching.wrapped(import_module(_RUNNER), "run", tasks.around))
    except (ImportError, AttributeError) as error:
        raise InputError(f"this is not Airflow 3: {error}") from error

    class Listener:
        @hookimpl
        def on_dag_run_success(self, dag_run: Any) -> None:
            tasks.guarded(tasks.run_ended, dag_run, None)

        @hookimpl
        def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
            tasks.guarded(tasks.run_ended, dag_run, msg)

    return Listener()


class _Tasks:
    """Running DAG runs and task instances of this process."""

    def __init__(self, handle: Callable[[], Handle]) -> None:
        self._handle = handle
        self._runs: dict[str, Work] = {}
        """DAG runs that run completely in this process."""
        self._done: dict[str, set[str]] = {}
        """Recorded task instances of these DAG runs."""
        self._open: dict[tuple[str, str], tuple[Work, bool]] = {}
        """Unfinished task instances by run and name; the flag is set if another attempt follows, otherwise they are waiting."""

    def guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function`` and report its errors to the handle."""
        try:
            function(*arguments)
        except Exception as error:
            self._handle().failed(error)

    def run_began(self, dag_run: Any) -> None:
        key = _key(dag_run)
        if key not in self._runs:
            self._runs[key] = _watching.begun(self._handle(), "run", dag_run.dag_id, run_id=key)

    def run_ended(self, dag_run: Any, problem: str | None) -> None:
        """Record the end of a DAG run, and the task instances that were skipped.

        A scheduler, or the API server if a user sets the state, also records the start now: the run may have been started by
        another process, which may be gone.
        """
        key, handle = _key(dag_run), self._handle()
        work, done = self._runs.pop(key, None), self._done.pop(key, set())
        for one in [one for one in self._open if one[0] == key]:
            del self._open[one]
        began, ended = dag_run.start_date, dag_run.end_date
        if work is None:
            handle.feed(_event("run.started", began or ended, run_id=key, workflow=dag_run.dag_id))
        for name, at, state in _left_out(dag_run):
            if name not in done:
                handle.feed(_event("phase.skipped", at, run_id=key, phase=name, reason=state))
        if work is None:
            word, error = _end_of_run(problem)
            details = {} if error is None else {"error": error}
            handle.feed(
                _event(f"run.{word}", ended, run_id=key, workflow=dag_run.dag_id, **details)
            )
        elif problem is None:
            work.end()
        else:
            word, error = _end_of_run(problem)
            work.end(TimeoutError(error)) if word == "timeout" else work.fail(error)

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap Airflow's function that runs a task instance and returns state, message and exception."""

        @functools.wraps(run)
        def ran(ti: Any, *arguments: Any, **options: Any) -> Any:
            with ExitStack() as inside:
                ended: Callable[..., None] | None = None
                try:
                    record = self._in_this_process if _is_test() else self._execution
                    ended = inside.enter_context(record(ti))
                except Exception as error:
                    self._handle().failed(error)
                returned = run(ti, *arguments, **options)
                if ended is not None:
                    self.guarded(_report_end, ended, returned)
            return returned

        return ran

    @contextmanager
    def _in_this_process(self, ti: Any) -> Generator[Callable[..., None]]:
        """Record a phase of a run that runs completely in this process, as in ``dag.test()``."""
        self.guarded(self.run_began, ti)
        place = _key(ti), _name(ti)
        self._done.setdefault(place[0], set()).add(place[1])
        details = {"run_id": place[0]}
        new = Work(self._handle(), "phase", place[1], details, doer=" ".join(place))
        work, begins = self._open.pop(place, (new, True))
        if begins:
            work.begin()

        def ended(state: str, error: BaseException | None) -> None:
            if state == _AGAIN:
                work.retry(_known(error))
            elif state == _FAILED:
                work.end(_known(error)) if error is not None else work.fail()
            elif state == _SKIPPED:
                work.skip()
            elif state not in _WAITING:
                work.end()
            if state == _AGAIN or state in _WAITING:
                self._open[place] = work, state == _AGAIN

        try:
            with work.inside():
                yield ended
        except BaseException as error:
            work.end(error)
            raise

    @contextmanager
    def _execution(self, ti: Any) -> Generator[Callable[..., None]]:
        """Record an execution in the trace of a run that another process records."""
        handle, key = self._handle(), _key(ti)
        settings = current_runtime().settings
        executions = Executions(
            handle, Redactor(settings.redact, patterns=settings.redact_patterns)
        )
        parent = TraceContext(trace_id_of(key), run_span_id(key)).traceparent
        execution = executions.begin(
            Delivery(
                str(ti.id),
                _name(ti),
                RunRef(key, ti.dag_id),
                {"traceparent": parent},
                type(ti.task).__name__,
                retries=ti.try_number - 1,
            )
        )
        outcome: tuple[Result, Failure | None] = (Result.SUCCESS, None)

        def ended(state: str, error: BaseException | None) -> None:
            nonlocal outcome
            outcome = _outcome(state, error)

        try:
            yield ended
        except BaseException as error:
            outcome = ended_with(error)
            raise
        finally:
            if execution is not None:
                executions.end(execution, *outcome)


def _event(event_type: str, at: datetime | None, **details: object) -> dict[str, object]:
    """Return an event for an entry of Airflow's database, with the entry's time."""
    return {"event_type": event_type, "payload": details, "time": at or datetime.now(UTC)}


def _end_of_run(problem: str | None) -> tuple[str, str | None]:
    """Return the event word and error for the end of a DAG run, from the listener's message. A manual stop is a cancellation."""
    if problem is None:
        return "completed", None
    if "timed_out" in problem:
        return "timeout", problem
    return ("cancelled", None) if _BY_HAND in problem else ("failed", problem)


def _left_out(dag_run: Any) -> list[tuple[str, datetime | None, str]]:
    """Return task instances that never ran, because of a branch, a trigger rule or an upstream failure."""
    session = import_module("sqlalchemy.orm").object_session(dag_run)
    found = dag_run.get_task_instances(session=session) if session else dag_run.get_task_instances()
    return [
        (_name(ti), ti.end_date, str(getattr(ti.state, "value", ti.state)))
        for ti in found
        if ti.state in _LEFT_OUT and not ti.pid and not ti.hostname
    ]


def _report_end(ended: Callable[..., None], returned: Any) -> None:
    state, _, error = returned
    ended(str(getattr(state, "value", state)), error)


def _outcome(state: str, error: BaseException | None) -> tuple[Result, Failure | None]:
    if state in (_FAILED, _AGAIN):
        return ended_with(_known(error)) if error is not None else (Result.FAILURE, None)
    if state == _SKIPPED:
        return Result.SKIP, None
    return (Result.CANCELLATION if state in _WAITING else Result.SUCCESS), None


def _is_test() -> bool:
    """Whether task instances run in the process that schedules them."""
    comms = getattr(import_module(_RUNNER), "SUPERVISOR_COMMS", None)
    return type(comms).__name__.startswith("InProcess")


def _known(error: BaseException | None) -> BaseException | None:
    """Convert Airflow's exceptions for timeouts and termination to Python's."""
    kind = type(error).__name__
    if "Timeout" in kind and not isinstance(error, TimeoutError):
        return TimeoutError(str(error))
    return CancelledError(str(error)) if kind == "AirflowTaskTerminated" else error


def _key(of: Any) -> str:
    """Return a run id; Airflow's is only unique within its DAG."""
    return f"{of.dag_id}/{of.run_id}"


def _name(ti: Any) -> str:
    """Return the task id, with the index of a mapped task."""
    index = getattr(ti, "map_index", None)
    return f"{ti.task_id}[{index}]" if index is not None and index >= 0 else str(ti.task_id)
