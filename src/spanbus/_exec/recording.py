"""Recording of a command: a background thread loads telemetry while the command runs, and records it with the real times.

Any failure is reported as one line on stderr and does not affect the command.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from spanbus._exec.launch import Child
from spanbus._exec.stderr import print_line, report_error
from spanbus._exec.trace import Trace
from spanbus._loggers import load

if TYPE_CHECKING:
    from pathlib import Path

    from spanbus._correlation.correlator import Correlator
    from spanbus._exec.arguments import Arguments
    from spanbus._exec.output import Output
    from spanbus._exec.supervise import CommandExit
    from spanbus._settings import Settings
    from spanbus._wiring import Wiring

_TICK_S = 0.25
_LONGEST_LOADING_S = 30.0
_FOR_THE_END = ("spanbus._store.writes", "spanbus._store.metrics", "spanbus._otlp.encode_metrics")
"""Modules that are needed at the end, imported while the command runs."""


class Recording:
    """Records one run with one phase, the command."""

    def __init__(
        self, arguments: Arguments, trace: Trace, child: Child, output: Output | None = None
    ) -> None:
        self._arguments, self._trace, self._child = arguments, trace, child
        self._output = output
        self._ended: CommandExit | None = None
        self._over = threading.Event()
        self._busy = True
        self._wake: Callable[[], None] = _no_op

    def begin(self, wake: Callable[[], None]) -> None:
        """Start recording in a thread. If none can be started, :meth:`end` does all the work."""
        self._wake = wake
        try:
            threading.Thread(target=self._work, name="spanbus-exec", daemon=True).start()
        except RuntimeError:
            self._wake = _no_op

    def end(self, ended: CommandExit | None) -> None:
        """Report the end of the command; None if it was not started."""
        self._ended = ended
        self._over.set()
        if self._wake is _no_op:
            self._work()

    def busy(self) -> bool:
        """Whether the record is not complete yet."""
        return self._busy

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._record()
        except BaseException as error:  # must not change the command's exit status
            report_error("this command is not recorded", error)
        finally:
            if self._output is not None:
                self._output.forget()
            self._busy = False
            self._wake()

    def _record(self) -> None:
        """Record the run with a correlator and sinks, as a runtime has them, but without buses and readers."""
        from spanbus._exec.messages import log_to_stderr

        log_to_stderr()
        from spanbus._correlation.correlator import Correlator
        from spanbus._exec.facts import CommandFacts, ending_of
        from spanbus._project import attributes_given
        from spanbus._settings import STORE_NAME, load_settings
        from spanbus._wiring import Wiring

        settings = load_settings(self._file(), strict=False, workflows=False)
        for warning in settings.warnings:
            print_line(warning)
        for name in settings.refused:  # the SDK reads the environment itself
            os.environ.pop(name, None)
        if settings.delivery == "sdk" or any(name.startswith("OTEL_") for name in os.environ):
            load()  # libraries that log will be imported
        if settings.endpoint_configured:  # before the exit limit runs
            import_module("spanbus._delivery.transport")
        messages: list[str] = []
        facts = CommandFacts(self._arguments, self._trace, self._child)
        correlator = Correlator(on_sink_error=_sink_failed)
        wiring = Wiring(
            settings,
            lifetime=settings.lifetime or "run",
            command_line=True,
            env=settings.usable(os.environ),
            store_path=settings.state_dir / STORE_NAME,
            paused=correlator.paused,
            tell=messages.append,
            attributes=attributes_given(self._arguments.attributes),
        )
        try:
            correlator.tell(wiring.sinks, wiring.note_sinks)
            for fact in facts.started():
                correlator.apply(fact)
            written = self._keep(settings, wiring, correlator)
            if settings.local != "off":
                for module in _FOR_THE_END:
                    import_module(module)
            gc.freeze()  # exclude what was loaded from later collections
            gc.enable()
            while not self._over.wait(_TICK_S):
                correlator.tick()
                wiring.tick(correlator.take_changed())
            written(ending_of(self._ended) if self._ended is not None else {})
            tail = self._output.tail() if self._output is not None else None
            for fact in facts.ended(self._ended, tail):
                correlator.apply(fact)
            wiring.warm(_LONGEST_LOADING_S)
        finally:
            correlator.close()
            wiring.close()
        if messages:  # the last message has the final state
            print_line(messages[-1].removeprefix("spanbus: "))
            return
        statistics = wiring.statistics()
        if statistics is not None and statistics.waiting and settings.endpoint_configured:
            from spanbus._pluralize import pluralize

            records = pluralize(statistics.waiting, "record waits", "records wait")
            print_line(
                f"{records} in {settings.state_dir}, there was no time to send: spanbus flush"
            )

    def _keep(
        self, settings: Settings, wiring: Wiring, correlator: Correlator
    ) -> Callable[[Mapping[str, object]], None]:
        """Keep the whole output if requested. Returns a function that is called with the command's end and waits for the rest."""
        output, arguments = self._output, self._arguments
        if output is None:
            return _nothing
        from spanbus._wiring.output import KeptOutput

        if self._child.error is not None or not KeptOutput.is_wanted(settings):
            output.forget()
            return _nothing
        kept = KeptOutput(settings, wiring, correlator, self._trace.run_id)
        of_command = kept.command(arguments.phase, arguments.program, arguments.argv)
        output.keep(of_command.line)

        def written(ending: Mapping[str, object]) -> None:
            of_command.close(ending)
            kept.close()

        return written

    def _file(self) -> Path | None:
        from pathlib import Path

        return Path(self._arguments.file) if self._arguments.file is not None else None


def _sink_failed(error: Exception) -> None:
    report_error("a part of this command's record is missing", error)


def _nothing(ending: Mapping[str, object]) -> None:
    del ending


def _no_op() -> None:
    pass
