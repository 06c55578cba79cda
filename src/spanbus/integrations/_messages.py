"""Support for queue middleware: sends messages with trace context, records their execution below the sending span."""

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
    run_ref_of,
    was_published,
)

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


class Messages:
    """Messages of one broker; ``kind`` names its library. No method raises."""

    def __init__(self, handle: Handle, kind: str) -> None:
        settings = current_runtime().settings
        self._handle, self._kind = handle, kind
        self._executions = Executions(
            handle, Redactor(settings.redact, patterns=settings.redact_patterns)
        )
        self._worker = f"{kind}@{os.uname().nodename}"

    def send(self, headers: MutableMapping[str, object], task_id: object) -> None:
        """Write the sender's identity and the time into the headers of a message."""
        if self._handle.off:
            return
        try:
            publish(headers, task_id)
        except Exception as problem:  # the message must be sent in any case
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
        """Begin an execution and make its span current. Returns None for a message that was sent outside of any span."""
        try:
            if not was_published(headers):
                return None
            run = run_ref_of(headers, run_id=task_id, workflow=task)
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
        """End an execution. ``error`` is what it raised, ``cut`` means that the worker was told to end, ``again`` that the
        task put its message back into the queue.
        """
        if cut:
            failure = Failure(ErrorType.TERMINATED, "its worker was told to end")
            self._executions.end(execution, Result.ERROR, failure)
        elif again:
            self._executions.end(execution, Result.FAILURE, Failure(ErrorType.UNSUCCESSFUL))
        else:
            self._executions.end(execution, *ended_with(error))

    def skip(self, execution: Execution) -> None:
        """End an execution that the worker skipped."""
        self._executions.end(execution, Result.SKIP)
