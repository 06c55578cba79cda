"""The spanbus command as a user runs it: in a process of its own, in a folder, with a state directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import prepared

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
    """Exit code and output of a command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.out))


@dataclass
class Cli:
    """The spanbus command in ``folder``.

    By default a command is forked from a process that has imported spanbus already (:mod:`prepared`), which is faster. With
    ``alone`` it is a new interpreter, for tests of the start itself. With ``exec_alone`` only ``exec`` is, because it must start
    without most imports.
    """

    folder: Path
    env: dict[str, str] = field(default_factory=dict[str, str])
    alone: bool = False
    exec_alone: bool = False

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "SPANBUS_", "TRACE")) and name != "BAGGAGE"
        }
        return {
            **kept,
            "SPANBUS_STATE_DIR": str(self.folder / "state"),
            "SPANBUS_EXIT_TIMEOUT_S": "20",  # for a busy machine
            "COLUMNS": "100",
            **self.env,
            **(more or {}),
        }

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from spanbus._cli import main; main()", *arguments]

    def __call__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 60,
    ) -> Done:
        if self._starts_alone(arguments, env or {}):
            done = self.run(self.argv(*arguments), env=env, stdin=stdin, timeout_s=timeout_s)
        else:
            done = prepared.run(
                arguments,
                folder=self.folder,
                env=self.environment(env),
                stdin=stdin,
                timeout_s=timeout_s,
            )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def _starts_alone(self, arguments: Sequence[str], env: Mapping[str, str]) -> bool:
        """Whether a command needs a new interpreter. ``--version``, ``--help`` and completion must start without most imports."""
        return (
            self.alone
            or not prepared.usable(self.environment(env))
            or (self.exec_alone and arguments[:1] == ("exec",))
            or (len(arguments) == 1 and arguments[0].startswith("-"))
            or "_SPANBUS_COMPLETE" in self.environment(env)
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_s: float = 60,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run any program in the folder, with the environment of the command."""
        return subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment(env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            input=stdin,
            pass_fds=pass_fds,
            check=False,
        )

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command without waiting for its end."""
        if not self._starts_alone(arguments, env or {}):
            return prepared.Forked(arguments, folder=self.folder, env=self.environment(env))
        return subprocess.Popen(
            self.argv(*arguments),
            cwd=self.folder,
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
