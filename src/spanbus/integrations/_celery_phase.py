"""Phase actions that run as tasks on a Celery worker, created in code or from a TOML definition."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread

from spanbus._suggest import did_you_mean
from spanbus._workflow.loops import LoopClosed, LoopHandle
from spanbus.errors import DefinitionError, InputError
from spanbus.integrations._celery_outcome import Meta, value_of
from spanbus.integrations._celery_results import results_of
from spanbus.integrations.executions import carry

if TYPE_CHECKING:
    from spanbus._workflow.execution import PhaseContext
    from spanbus._workflow.task_reference import TaskReference

Arguments = Sequence[object] | Callable[["PhaseContext"], Sequence[object]]
Keywords = Mapping[str, object] | Callable[["PhaseContext"], Mapping[str, object]]

_ID_CHARS = 150
"""AMQP limits an id to 255 bytes, some result backends to 155 characters."""
_NOT_SHARED = ("rpc", "amqp", "cache+memory", "memory")


def on_celery(
    task: Any,
    args: Arguments = (),
    kwargs: Keywords | None = None,
    *,
    revoke: bool = True,
    poll_s: float = 0.05,
    **apply_async_options: Any,
) -> OnCelery:
    """Return a phase action that runs ``task`` on a Celery worker. The phase's value is the task's result.

    ``args`` and ``kwargs`` may be functions of the phase's context, to use results of earlier phases. Each attempt is one
    message, which expires with the phase's timeout. A phase that is cancelled or times out revokes its task, unless
    ``revoke`` is false. ``poll_s`` is the shortest interval between two reads of the result backend. Other options go to
    ``task.apply_async``.

    Raises :class:`~spanbus.errors.InputError` if ``task`` is not a task, or if no other process can read its result.
    """
    from celery import Task

    if not isinstance(task, Task):
        raise InputError(
            f"on_celery takes a task of a Celery app, not {type(task).__name__}; decorate it with @app.task"
        )
    name = str(task.name)
    if not (isinstance(poll_s, int | float) and poll_s > 0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"on_celery({name}): poll_s must be greater than 0, not {poll_s!r}")
    if "task_id" in apply_async_options:
        raise InputError(
            f"on_celery({name}): task_id is made of run, phase and attempt; leave it out"
        )
    _check_results(task, apply_async_options)
    return OnCelery(task, args, kwargs or {}, revoke, float(poll_s), apply_async_options)


class OnCelery:
    """Phase action that publishes one message for each attempt and waits for the task's state."""

    task_type = "celery"

    def __init__(
        self,
        task: Any,
        args: Arguments,
        kwargs: Keywords,
        revoke: bool,
        poll_s: float,
        options: Mapping[str, Any],
    ) -> None:
        self._task, self._args, self._kwargs = task, args, kwargs
        self._revoke, self._poll_s, self._options = revoke, poll_s, options

    def __repr__(self) -> str:
        return f"on_celery({self._task.name})"

    async def __call__(self, context: PhaseContext) -> object:
        """Run one attempt. Cancellation revokes the task without waiting for the revocation."""
        args = self._args(context) if callable(self._args) else self._args
        kwargs = self._kwargs(context) if callable(self._kwargs) else self._kwargs
        task_id = _task_id(context.run_id, context.phase, context.attempt)
        options = {**self._options, "task_id": task_id, "headers": self._headers(context)}
        left_s = anyio.current_effective_deadline() - anyio.current_time()
        if left_s < math.inf:
            options.setdefault("expires", max(left_s, 0.001))

        def publish() -> Meta | None:
            # The AsyncResult is dropped in this thread: its finalizer may talk to the result backend.
            return _eager(self._task.apply_async(tuple(args), dict(kwargs), **options))

        results = results_of(self._task.app)
        try:
            eager = await anyio.to_thread.run_sync(publish, abandon_on_cancel=True)
            return value_of(eager or await self._result(results, task_id), self._task.backend)
        except anyio.get_cancelled_exc_class():
            if self._revoke:
                results.revoke(task_id)
            raise
        finally:
            results.forget(task_id)

    def _headers(self, context: PhaseContext) -> dict[str, object]:
        headers = dict(cast("Mapping[str, object]", self._options.get("headers") or {}))
        carry(
            headers,
            run_id=context.run_id,
            workflow=context.workflow,
            phase=context.phase,
            attempt=context.attempt,
        )
        return headers

    async def _result(self, results: Any, task_id: str) -> Meta:
        loop, there = LoopHandle(), anyio.Event()
        found: list[Meta] = []

        def done(meta: Meta) -> None:
            found.append(meta)
            try:
                loop.call(there.set)
            except LoopClosed:
                pass  # the waiter is gone

        results.wait_for(task_id, self._poll_s, done)
        await there.wait()
        return found[0]


def referenced(reference: TaskReference, folder: Path) -> OnCelery:
    """Return the action for a task that a definition names as ``module:task``. Modules in ``folder`` are found too.

    Raises :class:`~spanbus.errors.DefinitionError` if module or task does not exist or cannot be used.
    """
    module_name, _, attribute = reference.path.partition(":")
    where = f'celery = "{reference.path}"'
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: installed modules take precedence
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise DefinitionError(f"{where}: {module_name} cannot be imported: {error}") from error
        raise DefinitionError(
            f"{where}: there is no module {error.name!r}, neither installed nor in {folder}"
        ) from error
    except Exception as error:
        raise DefinitionError(
            f"{where}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        known = [name for name in dir(found) if not name.startswith("_")]
        if not hasattr(found, part):
            raise DefinitionError(
                f"{where}: {module_name} has no {part!r}{did_you_mean(part, known)}"
            )
        found = getattr(found, part)
    options: dict[str, Any] = {"queue": reference.queue} if reference.queue is not None else {}
    try:
        return on_celery(found, reference.args, reference.kwargs, **options)
    except InputError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _task_id(run_id: str, phase: str, attempt: int) -> str:
    """Return ``RUN.PHASE.ATTEMPT-`` with a random suffix: a run id may recur, and results and revocations outlive a run."""
    name = f"{run_id}.{phase}.{attempt}"
    if len(name.encode()) > _ID_CHARS - 7:
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        name = f"{name.encode()[: _ID_CHARS - 30].decode(errors='ignore')}.{digest}.{attempt}"
    return f"{name}-{os.urandom(3).hex()}"


def _eager(sent: object) -> Meta | None:
    """Return the state of a task that ran in the publishing process (``task_always_eager``)."""
    from celery.result import EagerResult

    if not isinstance(sent, EagerResult):
        return None
    result: Any = sent
    return {"status": result.state, "result": result.result, "traceback": result.traceback}


def _check_results(task: Any, options: Mapping[str, Any]) -> None:
    """Raise InputError unless this process can read the task's state."""
    name, app = str(task.name), task.app
    ignored = options.get("ignore_result")
    if ignored or (ignored is None and task.ignore_result):
        raise InputError(
            f"on_celery({name}): its results are ignored, and the phase would not know its end; set ignore_result=False on the task"
        )
    if app.conf.task_always_eager:
        return
    url = str(app.conf.result_backend or "")
    advice = "set result_backend to one that is shared, such as redis://host/1"
    try:
        kind = type(task.backend).__name__
    except Exception as error:
        why = " ".join(str(error).split())  # messages may have several lines
        raise InputError(
            f"on_celery({name}): the result backend cannot be used ({type(error).__name__}: {why}); {advice}"
        ) from error
    if kind == "DisabledBackend":
        raise InputError(f"on_celery({name}): its app has no result backend; {advice}")
    scheme = url.partition(":")[0]
    if scheme in _NOT_SHARED or kind == "RPCBackend":
        raise InputError(
            f"on_celery({name}): results of {scheme}:// reach one process only; {advice}"
        )
