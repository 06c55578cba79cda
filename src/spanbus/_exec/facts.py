"""Facts of a command's run: one phase that contains one tool.

Facts are created directly, not read from events: loading a dialect would take longer than a short command.
"""

from __future__ import annotations

import signal
import time

from spanbus._exec.arguments import Arguments
from spanbus._exec.launch import Child
from spanbus._exec.supervise import CommandExit
from spanbus._exec.trace import Trace
from spanbus._reading.facts import ENGINE_HINTS, Ended, Fact, Hints, Rank, SpanEvent, Started, Verb
from spanbus._semantics import ErrorType, Failure, Result
from spanbus._workflow.event_ids import new_event_id

SOURCE = "spanbus.engine"

Payload = dict[str, object]


class CommandFacts:
    """Facts of one command, started or not."""

    def __init__(self, arguments: Arguments, trace: Trace, child: Child) -> None:
        self._program, self._argv = arguments.program, arguments.argv
        self._phase, self._workflow = arguments.phase, arguments.workflow_name
        self._trace, self._child = trace, child
        self._of_run = Hints(traceparent=trace.traceparent, tracestate=trace.tracestate)
        self._of_run.workflow = self._workflow
        self._of_tool = self._of_run.copy()
        self._of_tool.workflow, self._of_tool.exact = None, True

    def started(self) -> tuple[Fact, ...]:
        """Return the starts of run, phase and tool."""
        at_ns, run_id = self._child.started_at_ns, self._trace.run_id
        announced: Payload = {"workflow": self._workflow, "phases": [self._phase]}
        of_phase: Payload = {"type": "run", "needs": []}
        return (
            Started(
                _event("workflow.started", at_ns, announced), Rank.RUN, None, run_id, self._of_run
            ),
            Started(
                _event("workflow.phase.started", at_ns, of_phase),
                Rank.STEP,
                self._phase,
                run_id,
                ENGINE_HINTS,
                task_type="run",
            ),
            Started(
                _event("hooks.execution.started", at_ns, self._about()),
                Rank.HOOK,
                self._program,
                run_id,
                self._of_tool,
            ),
        )

    def ended(self, ended: CommandExit | None, tail: str | None = None) -> tuple[Fact, ...]:
        """Return the ends of tool, phase and run.

        ``ended`` is None for a command that could not be started; ``tail`` is the end of its output.
        """
        if ended is None:
            error = self._child.error
            why = error.strerror if error is not None else "it was not started"
            text = f"cannot run {self._program}: {why}"
            tool: Payload = {"status": "error", "error": text}
            return self._failed(time.time_ns(), 0, tool, text, Failure(ErrorType.OTHER, text))
        at_ns, duration_ns = ended.ended_at_ns, ended.duration_ns
        tool = ending_of(ended)
        if tail:
            tool["output_tail"] = tail
        if ended.signal_name is not None:
            return self._cancelled(at_ns, duration_ns, tool, ended.signal_name)
        if ended.exit_code == 0:
            return self._succeeded(at_ns, duration_ns, tool)
        text = _why(self._program, ended.exit_code)
        return self._failed(at_ns, duration_ns, tool, text, Failure(ErrorType.UNSUCCESSFUL))

    # --- endings ------------------------------------------------------------------------------------------------------

    def _succeeded(self, at_ns: int, duration_ns: int, tool: Payload) -> tuple[Fact, ...]:
        of_both: Payload = {"success": True}
        kinds = ("completed", "completed", "completed")
        return self._over(at_ns, duration_ns, kinds, tool, of_both, of_both, Result.SUCCESS)

    def _cancelled(
        self, at_ns: int, duration_ns: int, tool: Payload, signal_name: str
    ) -> tuple[Fact, ...]:
        of_both: Payload = {"reason": signal_name}
        return self._over(
            at_ns,
            duration_ns,
            ("failed", "cancelled", "interrupted"),
            tool,
            of_both,
            of_both,
            Result.CANCELLATION,
            reason=signal_name,
        )

    def _failed(
        self, at_ns: int, duration_ns: int, tool: Payload, text: str, of_tool: Failure
    ) -> tuple[Fact, ...]:
        error = "unsuccessful"
        of_both: Payload = {"success": False, "result": "failure", "error_type": error}
        of_run = f"phase {self._phase} failed: {text}"
        return self._over(
            at_ns,
            duration_ns,
            ("failed", "failed", "failed"),
            tool,
            {**of_both, "error": text},
            {**of_both, "error": of_run},
            Result.FAILURE,
            failures=(of_tool, Failure(error, text), Failure(error, of_run)),
        )

    def _over(
        self,
        at_ns: int,
        duration_ns: int,
        kinds: tuple[str, str, str],
        tool: Payload,
        phase: Payload,
        run: Payload,
        result: Result,
        *,
        failures: tuple[Failure | None, Failure | None, Failure | None] = (None, None, None),
        reason: str | None = None,
    ) -> tuple[Fact, ...]:
        run_id = self._trace.run_id
        lasted: Payload = {"duration": duration_ns / 1e9}
        known_ns = duration_ns or None
        tool = {**self._about(), **lasted, **tool}
        phase = {**phase, **lasted, "attempts": 1}
        run = {"workflow": self._workflow, **run, **lasted}
        return (
            Ended(
                _event(f"hooks.execution.{kinds[0]}", at_ns, tool),
                Verb.END,
                Rank.HOOK,
                self._program,
                run_id,
                self._of_tool,
                result,
                failures[0],
                known_ns,
            ),
            Ended(
                _event(f"workflow.phase.{kinds[1]}", at_ns, phase),
                Verb.END,
                Rank.STEP,
                self._phase,
                run_id,
                ENGINE_HINTS,
                result,
                failures[1],
                known_ns,
                attempts=1,
                final=True,
                reason=reason,
            ),
            Ended(
                _event(f"workflow.{kinds[2]}", at_ns, run),
                Verb.END,
                Rank.RUN,
                None,
                run_id,
                self._of_run,
                result,
                failures[2],
                known_ns,
                final=True,
                reason=reason,
            ),
        )

    def _about(self) -> Payload:
        return {"step_id": self._phase, "executable": self._program, "command": self._argv}


def ending_of(ended: CommandExit) -> Payload:
    """Return the payload of a tool's end event."""
    status = "passed" if ended.exit_code == 0 else "failed"
    return {
        "exit_code": ended.exit_code,
        "status": "cancelled" if ended.signal_name is not None else status,
    }


def _event(name: str, at_ns: int, payload: Payload) -> SpanEvent:
    return SpanEvent(name, at_ns, new_event_id(), SOURCE, {**payload, "timestamp": at_ns / 1e9})


def _why(program: str, exit_code: int) -> str:
    if exit_code < 0:
        return f"{program} was ended by {_signal_name(-exit_code)}"
    return f"{program} ended with exit code {exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
