"""Local runners for the configuration files of CI systems: steps run in order in a shell, with real files and variables."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import yaml

Table = Mapping[str, object]


class Job:
    """A folder and environment variables in which scripts run one after the other."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env: dict[str, str] = dict(env)

    def run(self, argv: Sequence[str], script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        file = self.folder / "script"
        file.write_text(script)
        return subprocess.run(
            [*argv, str(file)],
            cwd=cwd,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


class GithubAction(Job):
    """A composite action of GitHub. The files of the runner (GITHUB_ENV, GITHUB_PATH ...) are read after each step."""

    def __init__(
        self, file: Path, inputs: Mapping[str, str], folder: Path, env: Mapping[str, str]
    ) -> None:
        super().__init__(folder, env)
        action = cast("Table", yaml.safe_load(file.read_text()))
        known = cast("Mapping[str, Table]", action["inputs"])
        assert set(inputs) <= set(known)
        self._inputs = {name: str(about["default"]) for name, about in known.items()} | dict(inputs)
        runs = cast("Table", action["runs"])
        assert runs["using"] == "composite"
        self._steps = cast("Sequence[Table]", runs["steps"])
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            (folder / name).touch()
            self.env[name] = str(folder / name)
        self.env |= {"CI": "true", "GITHUB_ACTIONS": "true"}

    def steps(self) -> list[subprocess.CompletedProcess[str]]:
        """Run the steps until one fails."""
        done: list[subprocess.CompletedProcess[str]] = []
        for step in self._steps:
            own = self._filled(cast("Table", step.get("env", {})))
            before, self.env = self.env, {**self.env, **own}
            cwd = self.folder / self._fill(str(step.get("working-directory", ".")))
            shell = {"sh": ["sh", "-e"], "bash": ["bash", "-eo", "pipefail"]}[str(step["shell"])]
            done.append(self.run(shell, self._fill(str(step["run"])), cwd))
            self.env = before
            self._read_runner_files()
            if done[-1].returncode:
                break
        return done

    def summary(self) -> str:
        return (self.folder / "GITHUB_STEP_SUMMARY").read_text()

    def _read_runner_files(self) -> None:
        for line in (self.folder / "GITHUB_ENV").read_text().splitlines():
            name, _, value = line.partition("=")
            self.env[name] = value
        paths = (self.folder / "GITHUB_PATH").read_text().split()
        self.env["PATH"] = os.pathsep.join([*reversed(paths), self.env["PATH"]])
        for name in ("GITHUB_ENV", "GITHUB_PATH"):
            (self.folder / name).write_text("")

    def _filled(self, table: Table) -> dict[str, str]:
        return {name: self._fill(str(value)) for name, value in table.items()}

    def _fill(self, text: str) -> str:
        """Replace the expressions ``inputs.NAME``; any other kind of expression is an error."""
        filled = re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: self._inputs[found[1]], text)
        assert "${{" not in filled
        return filled


class _Yaml(yaml.SafeLoader):
    """A loader that knows GitLab's tag ``!reference``."""


_Yaml.add_constructor(
    "!reference", lambda loader, node: ("!reference", *loader.construct_sequence(node))
)


class GitlabJob(Job):
    """A GitLab job with ``extends`` resolved. ``before_script`` and ``script`` share a shell, ``after_script`` has another."""

    def __init__(self, text: str, name: str, folder: Path, env: Mapping[str, str]) -> None:
        super().__init__(folder, env)
        self._all = cast("dict[str, dict[str, object]]", yaml.load(text, _Yaml))
        self.job = self._extended(name)
        self.env |= {"CI": "true", "GITLAB_CI": "true", "CI_PROJECT_DIR": str(folder)}
        for key, value in cast("Table", self.job.get("variables", {})).items():
            self.env[key] = re.sub(r"\$\{?(\w+)\}?", self._value, str(value))

    def _value(self, found: re.Match[str]) -> str:
        return self.env.get(found[1], "")

    def script(self) -> subprocess.CompletedProcess[str]:
        lines = [*self._lines("before_script"), *self._lines("script")]
        return self.run(["bash", "-eo", "pipefail"], "\n".join(lines), self.folder)

    def after_script(self) -> subprocess.CompletedProcess[str]:
        return self.run(
            ["bash", "-eo", "pipefail"], "\n".join(self._lines("after_script")), self.folder
        )

    def _lines(self, key: str) -> list[str]:
        lines: list[str] = []
        for line in cast("Sequence[object]", self.job.get(key, ())):
            if isinstance(line, tuple):
                _, job, part = cast("tuple[str, str, str]", line)
                lines.extend(cast("Sequence[str]", self._all[job][part]))
            else:
                lines.append(str(line))
        return lines

    def _extended(self, name: str) -> dict[str, object]:
        job = self._all[name]
        base = job.get("extends")
        if base is None:
            return job
        made = self._extended(str(base))
        variables = {
            **cast("Table", made.get("variables", {})),
            **cast("Table", job.get("variables", {})),
        }
        return {**made, **job, "variables": variables}
