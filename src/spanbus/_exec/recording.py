"""Recording of a command: telemetry is imported in a thread while it runs, and gets the real times.

Any error here is one line on stderr and does not affect the command.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from spanbus._exec.launch import Child
from spanbus._exec.say import complain, say
from spanbus._exec.trace import Trace
from spanbus._loggers import load

if TYPE_CHECKING:
    from pathlib import Path

    from spanbus._correlation.correlator import Correlator
    from spanbus._exec.arguments import Arguments
    from spanbus._exec.attend import Ended
    from spanbus._exec.output import Output
    from spanbus._settings import Settings
    from spanbus._wiring import Wiring

_TICK_S = 0.25
_LONGEST_LOADING_S = 30.0
_PRELOADED = ("spanbus._store.writes", "spanbus._store.metrics", "spanbus._otlp.encode_metrics")
"""Modules imported while the command runs, so that they take no time after it."""


class Recording:
    """Recording of one command as a run with one phase."""

    def __init__(
        self, arguments: Arguments, trace: Trace, child: Child, output: Output | None = None
    ) -> None:
        self._arguments, self._trace, self._child = arguments, trace, child
        self._output = output
        self._ended: Ended | None = None
        self._command_ended = threading.Event()
        self._busy = True
        self._wake: Callable[[], None] = _no_wake

    def begin(self, wake: Callable[[], None]) -> None:
        """Start the recording thread; if no thread can be started, :meth:`end` does the recording."""
        self._wake = wake
        try:
            threading.Thread(target=self._work, name="spanbus-exec", daemon=True).start()
        except RuntimeError:
            self._wake = _no_wake

    def end(self, ended: Ended | None) -> None:
        """Record the end of the command; None if it was not started."""
        self._ended = ended
        self._command_ended.set()
        if self._wake is _no_wake:
            self._work()

    def busy(self) -> bool:
        """Whether the recording is not finished."""
        return self._busy

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._record()
        except BaseException as error:  # nothing here may change the command's exit status
            complain("this command is not recorded", error)
        finally:
            if self._output is not None:
                self._output.forget()
            self._busy = False
            self._wake()

    def _record(self) -> None:
        """Feed facts to a correlator with its own wiring, as a runtime does, but without a bus."""
        from spanbus._exec.messages import show_one_line_messages

        show_one_line_messages()
        from spanbus._correlation.correlator import Correlator
        from spanbus._exec.facts import CommandFacts, ending_of
        from spanbus._project import attributes_given
        from spanbus._settings import STORE_NAME, load_settings
        from spanbus._wiring import Wiring

        settings = load_settings(self._file(), strict=False, workflows=False)
        for warning in settings.warnings:
            say(warning)
        for name in settings.refused:  # libraries read the environment themselves
            os.environ.pop(name, None)
        if settings.delivery == "sdk" or any(name.startswith("OTEL_") for name in os.environ):
            load()  # libraries that log will be imported
        if settings.endpoint_configured:  # import it before the exit limit begins
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
                for module in _PRELOADED:
                    import_module(module)
            gc.freeze()  # exclude imported objects from collections
            gc.enable()
            while not self._command_ended.wait(_TICK_S):
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
            say(messages[-1].removeprefix("spanbus: "))
            return
        statistics = wiring.statistics()
        if statistics is not None and statistics.waiting and settings.endpoint_configured:
            from spanbus._pluralize import pluralize

            records = pluralize(statistics.waiting, "record waits", "records wait")
            say(f"{records} in {settings.state_dir}, there was no time to send: spanbus flush")

    def _keep(
        self, settings: Settings, wiring: Wiring, correlator: Correlator
    ) -> Callable[[Mapping[str, object]], None]:
        """Keep the full output, if wanted. Call the result with the command's end; it waits until all is written."""
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
    complain("a part of this command's record is missing", error)


def _nothing(ending: Mapping[str, object]) -> None:
    """Do nothing: no output is kept."""
    del ending


def _no_wake() -> None:
    """Do nothing."""
