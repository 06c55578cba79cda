"""Tasks of a queue as a middleware meets them: sent with trace context and time, executed beneath the span that sent them."""

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
    was_published,
    whose_of,
)

if TYPE_CHECKING:
    from spanbus._attaching.handle import Handle


class Messages:
    """The messages of one broker, ``kind`` its library. None of its methods raises."""

    def __init__(self, handle: Handle, kind: str) -> None:
        settings = current_runtime().settings
        self._handle, self._kind = handle, kind
        self._executions = Executions(
            handle, Redactor(settings.redact, patterns=settings.redact_patterns)
        )
        self._worker = f"{kind}@{os.uname().nodename}"

    def send(self, headers: MutableMapping[str, object], task_id: object) -> None:
        """Put into the headers of a message who sends it, and when."""
        if self._handle.off:
            return
        try:
            publish(headers, task_id)
        except Exception as problem:  # a wall: the message goes out all the same
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
        """Begin an execution, its span current; None for a message that no span sent, which is a run of its own."""
        try:
            if not was_published(headers):
                return None
            whose = whose_of(headers, run_id=task_id, workflow=task)
            return self._executions.begin(
                Delivery(
                    task_id=task_id,
                    task=task,
                    whose=whose,
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
        """End an execution with what it raised. ``cut``: its worker was told to end; ``again``: it gave its message back."""
        if cut:
            failure = Failure(ErrorType.TERMINATED, "its worker was told to end")
            self._executions.end(execution, Result.ERROR, failure)
        elif again:
            self._executions.end(execution, Result.FAILURE, Failure(ErrorType.UNSUCCESSFUL))
        else:
            self._executions.end(execution, *ended_with(error))

    def skip(self, execution: Execution) -> None:
        """End an execution that was not done after all."""
        self._executions.end(execution, Result.SKIP)
