"""Many short-lived processes with one run each."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from command_line import Cli


def many(cli: Cli, count: int, workflow: str, *, fails: bool = True, at_once: int = 8) -> None:
    """Run ``count`` processes, ``at_once`` of them concurrently. Each opens a runtime, runs one phase and exits."""
    once = (
        "import sys\n"
        "from one_shots import run_once\n"
        "from spanbus._runtime import Runtime\n"
        "with Runtime(lifetime='run') as runtime:\n"
        "    run_once(runtime, sys.argv[1], sys.argv[2], fails=sys.argv[3] == 'True')\n"
    )
    env = cli.environment({"SPANBUS_LOCAL": "on", "OTEL_SERVICE_NAME": "spanbus", **cli.env})
    env["PYTHONPATH"] = os.pathsep.join(
        (str(Path(__file__).parents[1] / "stack"), env.get("PYTHONPATH", ""))
    )
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(count):
        if len(running) == at_once:
            assert running.pop(0).wait(timeout=120) == 0
        argv = [sys.executable, "-c", once, workflow, secrets.token_hex(8), str(fails)]
        running.append(subprocess.Popen(argv, env=env, cwd=cli.folder))
    for process in running:
        assert process.wait(timeout=120) == 0
