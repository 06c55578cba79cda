"""Airflow 3: a DAG run is a run, each task instance a phase of it, or an execution where a process of its own does it."""

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
    """Watch the DAG runs and task instances of this process; the module stands for them."""
    if not isinstance(target, ModuleType):
        raise InputError("instrument the module: spanbus.instrument(airflow)")
    ways = _watched(lambda: handle, handle.add_undo)
    manager: Any = import_module("airflow.listeners.listener").get_listener_manager()
    manager.add_listener(ways)

    def undo() -> None:
        manager.pm.unregister(ways)

    handle.add_undo(undo)


def listener() -> object:
    """The listener for a plugin of Airflow: in the processes that load it, from the first DAG run or task instance on."""
    return _listener()


@functools.cache
def _listener() -> object:
    """One, though Airflow loads its plugins twice in some processes."""
    import spanbus

    @functools.cache
    def handle() -> Handle:
        return spanbus.instrument(None, dialect=DIALECT)

    return _watched(handle, lambda undo: None)


def _watched(handle: Callable[[], Handle], undo: Callable[[Callable[[], None]], None]) -> object:
    """The listener of DAG runs; task instances are watched where they run, for a listener is told of few of their ends."""
    try:
        hookimpl: Any = import_module("pluggy").HookimplMarker("airflow")
        tasks = _Tasks(handle)
        undo(_watching.wrapped(import_module(_RUNNER), "run", tasks.around))
    except (ImportError, AttributeError) as error:
        raise InputError(f"this is not Airflow 3: {error}") from error

    class Listener:
        @hookimpl
        def on_dag_run_success(self, dag_run: Any) -> None:
            tasks.told(tasks.run_ended, dag_run, None)

        @hookimpl
        def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
            tasks.told(tasks.run_ended, dag_run, msg)

    return Listener()


class _Tasks:
    """The DAG runs and task instances under way in this process."""

    def __init__(self, handle: Callable[[], Handle]) -> None:
        self._handle = handle
        self._runs: dict[str, Work] = {}
        """DAG runs that this process makes from their beginning to their end."""
        self._done: dict[str, set[str]] = {}
        """For these the task instances that were told."""
        self._open: dict[tuple[str, str], tuple[Work, bool]] = {}
        """Task instances that go on, by run and name, and whether with another attempt; else they wait for something."""

    def told(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self._handle().failed(error)

    def run_began(self, dag_run: Any) -> None:
        key = _key(dag_run)
        if key not in self._runs:
            self._runs[key] = _watching.begun(self._handle(), "run", dag_run.dag_id, run_id=key)

    def run_ended(self, dag_run: Any, problem: str | None) -> None:
        """The end of a DAG run, with the task instances that were left out of it.

        A scheduler, or the server where somebody sets its state, tells of all of it now: it may have been begun by another
        one, which may be gone.
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
            said = {} if error is None else {"error": error}
            handle.feed(_event(f"run.{word}", ended, run_id=key, workflow=dag_run.dag_id, **said))
        elif problem is None:
            work.end()
        else:
            word, error = _end_of_run(problem)
            work.end(TimeoutError(error)) if word == "timeout" else work.fail(error)

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Airflow's function that runs a task instance, watched: it returns the state, a message, and the exception."""

        @functools.wraps(run)
        def ran(ti: Any, *arguments: Any, **options: Any) -> Any:
            with ExitStack() as inside:
                ended: Callable[..., None] | None = None
                try:
                    way = self._in_this_process if _is_test() else self._execution
                    ended = inside.enter_context(way(ti))
                except Exception as error:
                    self._handle().failed(error)
                returned = run(ti, *arguments, **options)
                if ended is not None:
                    self.told(_tell, ended, returned)
            return returned

        return ran

    @contextmanager
    def _in_this_process(self, ti: Any) -> Generator[Callable[..., None]]:
        """A phase of a run that this process makes from its beginning to its end: ``dag.test()``."""
        self.told(self.run_began, ti)
        place = _key(ti), _name(ti)
        self._done.setdefault(place[0], set()).add(place[1])
        said = {"run_id": place[0]}
        new = Work(self._handle(), "phase", place[1], said, doer=" ".join(place))
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
        """An execution, in the trace of a run of which another process tells."""
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


def _event(event_type: str, at: datetime | None, **said: object) -> dict[str, object]:
    """An event of what Airflow's database says, at the time that is said there."""
    return {"event_type": event_type, "payload": said, "time": at or datetime.now(UTC)}


def _end_of_run(problem: str | None) -> tuple[str, str | None]:
    """The word for the end of a DAG run, by the message that its listeners get; what somebody stops by hand is cancelled."""
    if problem is None:
        return "completed", None
    if "timed_out" in problem:
        return "timeout", problem
    return ("cancelled", None) if _BY_HAND in problem else ("failed", problem)


def _left_out(dag_run: Any) -> list[tuple[str, datetime | None, str]]:
    """Task instances that never ran: because of a branch, a trigger rule or the failure of another one."""
    session = import_module("sqlalchemy.orm").object_session(dag_run)
    found = dag_run.get_task_instances(session=session) if session else dag_run.get_task_instances()
    return [
        (_name(ti), ti.end_date, str(getattr(ti.state, "value", ti.state)))
        for ti in found
        if ti.state in _LEFT_OUT and not ti.pid and not ti.hostname
    ]


def _tell(ended: Callable[..., None], returned: Any) -> None:
    state, _, error = returned
    ended(str(getattr(state, "value", state)), error)


def _outcome(state: str, error: BaseException | None) -> tuple[Result, Failure | None]:
    if state in (_FAILED, _AGAIN):
        return ended_with(_known(error)) if error is not None else (Result.FAILURE, None)
    if state == _SKIPPED:
        return Result.SKIP, None
    return (Result.CANCELLATION if state in _WAITING else Result.SUCCESS), None


def _is_test() -> bool:
    """Whether task instances run in the process that also decides on their run."""
    comms = getattr(import_module(_RUNNER), "SUPERVISOR_COMMS", None)
    return type(comms).__name__.startswith("InProcess")


def _known(error: BaseException | None) -> BaseException | None:
    """An exception as one that is known here: Airflow has classes of its own for time-outs and for being stopped."""
    kind = type(error).__name__
    if "Timeout" in kind and not isinstance(error, TimeoutError):
        return TimeoutError(str(error))
    return CancelledError(str(error)) if kind == "AirflowTaskTerminated" else error


def _key(of: Any) -> str:
    """The id of a DAG run: that of Airflow is unique in its DAG only."""
    return f"{of.dag_id}/{of.run_id}"


def _name(ti: Any) -> str:
    """The task, with its number where it is mapped."""
    index = getattr(ti, "map_index", None)
    return f"{ti.task_id}[{index}]" if index is not None and index >= 0 else str(ti.task_id)
