"""The spanbus command as a user runs it: a process, a folder, a state directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

Json = dict[str, object]

WORKFLOW = """
[workflows.standard]
phases = [
  { name = "fast_hooks", action = "fast_hooks", hooks = [ { name = "ok", run = "true" }, { name = "lint", run = "sh -c 'echo bad line 7; exit 3'" } ] },
  { name = "cleaning", action = "code_cleaning", run = "sh -c 'echo cleaned'" },
  { name = "comprehensive", action = "comprehensive_hooks", needs = ["fast_hooks", "cleaning"], hooks = [ { name = "types", run = "true" } ] },
  { name = "tests", action = "test_workflow", needs = ["cleaning"], run = "sh -c 'test -e tried || { touch tried; echo once; exit 1; }'", retries = 1, retry_backoff = 0.01 },
]
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.out))


@dataclass
class Cli:
    """Runs the command in ``folder``."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict[str, str])

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SPANBUS_", "TRACE")) and name != "BAGGAGE"}
        return {**kept, "SPANBUS_STATE_DIR": str(self.folder / "state"), "COLUMNS": "100", **self.env, **(more or {})}

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from spanbus.cli import main; main()", *arguments]

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout_s: float = 60) -> Done:
        done = subprocess.run(
            self.argv(*arguments), cwd=self.folder, env=self.environment(env), capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*arguments), cwd=self.folder, env=self.environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
