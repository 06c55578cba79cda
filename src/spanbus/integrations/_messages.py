"""Messages of a task queue for its middleware: sent with trace context and time, executed as child of the sending span."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING

from spanbus._attaching.task_ends import ended_with
from spanbus._runtime import current_runtime
from spanbus._semantics import ErrorType, Failure, Result
from spanbus._telemetry.redaction import Redactor
from spanbus.integrations.executions import (
    Delivery,
    Execution,
    Executions,
    publish,
    run_of,
    was_published,
)

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


class Messages:
    """Messages of one broker; ``kind`` is its library. No method raises."""

    def __init__(self, handle: Handle, kind: str) -> None:
        settings = current_runtime().settings
        self._handle, self._kind = handle, kind
        self._executions = Executions(
            handle, Redactor(settings.redact, patterns=settings.redact_patterns)
        )
        self._worker = f"{kind}@{os.uname().nodename}"

    def send(self, headers: MutableMapping[str, object], task_id: object) -> None:
        """Add trace context and time of sending to the headers of a message."""
        if self._handle.off:
            return
        try:
            publish(headers, task_id)
        except Exception as problem:  # the message must be sent anyway
            self._handle.failed(problem)

    def begin(
        self,
        headers: Mapping[str, object],
        task_id: str,
        task: str,
        *,
        retries: object = 0,
        due_ns: int = 0,
        queue: str | None = None,
        redelivered: bool = False,
    ) -> Execution | None:
        """Begin an execution and make its span current; None for a message sent outside of a span, which is its own run."""
        try:
            if not was_published(headers):
                return None
            run = run_of(headers, run_id=task_id, workflow=task)
            return self._executions.begin(
                Delivery(
                    task_id=task_id,
                    task=task,
                    run=run,
                    headers=headers,
                    kind=self._kind,
                    retries=int(str(retries or 0)),
                    due_ns=due_ns,
                    queue=queue,
                    worker=self._worker,
                    redelivered=redelivered,
                )
            )
        except Exception as problem:
            self._handle.failed(problem)
            return None

    def end(
        self,
        execution: Execution,
        error: BaseException | None,
        *,
        cut: bool = False,
        again: bool = False,
    ) -> None:
        """End an execution with its error. ``cut``: the worker was stopped; ``again``: the message was returned to the queue."""
        if cut:
            failure = Failure(ErrorType.TERMINATED, "its worker was told to end")
            self._executions.end(execution, Result.ERROR, failure)
        elif again:
            self._executions.end(execution, Result.FAILURE, Failure(ErrorType.UNSUCCESSFUL))
        else:
            self._executions.end(execution, *ended_with(error))

    def skip(self, execution: Execution) -> None:
        """End an execution that was skipped."""
        self._executions.end(execution, Result.SKIP)
