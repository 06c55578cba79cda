"""Full output of a run's commands, kept beside the local store and sent as logs if configured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from spanbus._closing import Closing
from spanbus._project import service_name
from spanbus._store.output import CommandOutput, OutputLog
from spanbus._store.read_only import takes_files

if TYPE_CHECKING:
    from spanbus._correlation.correlator import Correlator
    from spanbus._settings import Settings
    from spanbus._wiring import Wiring


class KeptOutput(Closing):
    """Output of the commands of one run. Closing waits until all of it is written."""

    def __init__(
        self, settings: Settings, wiring: Wiring, correlator: Correlator, run_id: str
    ) -> None:
        self._correlator = correlator
        self._run_id = run_id
        self._send = wiring.output_logger()
        self._redactor = wiring.template.redactor
        self._log = OutputLog(
            settings.state_dir,
            run_id,
            self._redactor.whole,
            settings.store_logs_bytes,
            project=service_name(),
        )

    @staticmethod
    def is_wanted(settings: Settings) -> bool:
        """Whether output is to be kept, and can be."""
        local = settings.local != "off" and takes_files(settings.state_dir)
        return local and settings.output != "off" and not settings.sdk_disabled

    def command(
        self, phase: str, tool: str, argv: Sequence[str], *, attempt: int = 1
    ) -> CommandOutput:
        """Return the output file of one command, whose tool span is open in the phase."""
        record = self._correlator.tool(self._run_id, phase, tool)
        send = self._send
        return self._log.command(
            phase,
            tool,
            self._redactor.arguments(argv),
            attempt=attempt,
            span_id=f"{record.span_id:016x}" if record is not None else None,
            emit=partial(send, record) if send is not None and record is not None else None,
        )

    def close(self) -> None:
        """Write everything that waits."""
        self._log.close()
