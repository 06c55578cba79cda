"""The CI templates, run as far as a shell can run them."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
from ci_files import GithubAction, GitlabJob
from command_line import Cli, Json

from spanbus._otlp.decode import attributes
from spanbus._store.store import Store
from spanbus.testing import Receiver

ROOT = Path(__file__).parents[2]
FAILING = '[workflows.checks]\nphases = [ { name = "a", run = "sh -c \'exit 3\'" }, { name = "b", run = "true" } ]\n'


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with ``spanbus`` and ``python3``, without an installation."""
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "spanbus"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m spanbus "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def sh(script: str, cli: Cli, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=cli.folder,
        env=cli.environment(env),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def action(cli: Cli, path: str, **inputs: str) -> GithubAction:
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    return GithubAction(ROOT / "action.yml", given, cli.folder, cli.environment({"PATH": path}))


def test_the_action_runs_a_workflow_and_gives_its_exit_code(cli: Cli, path: str) -> None:
    (cli.folder / "part").mkdir()
    (cli.folder / "part" / "spanbus.toml").write_text(FAILING)
    given = {"arguments": "--only a -j 1", "report": "page.html", "working_directory": "part"}
    ran = action(cli, path, workflow="checks", **given)
    install, run = ran.steps()
    assert (install.returncode, install.stdout, install.stderr) == (0, "", "")
    assert run.returncode == 1
    assert "::group::a" in run.stdout
    assert "left out: b" in run.stdout
    assert "| ✗ failure | `a` |" in ran.summary()
    assert "<!doctype html>" in (cli.folder / "part" / "page.html").read_text()


def test_the_action_without_inputs_runs_the_only_workflow(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING.replace("exit 3", "exit 0"))
    _, run = action(cli, path).steps()
    assert run.returncode == 0
    assert "telemetry stays in" in run.stderr.splitlines()[-1]


def test_the_action_sends_to_an_endpoint_with_its_headers(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING)
    with Receiver() as receiver:
        endpoint = receiver.env["OTEL_EXPORTER_OTLP_ENDPOINT"]
        ran = action(cli, path, endpoint=endpoint, headers="authorization=Bearer x").steps()[-1]
        assert ran.stderr.splitlines()[-1] == "spanbus: flushed"
        assert receiver.spans()
        assert {request.headers["authorization"] for request in receiver.taken("traces")} == {
            "Bearer x"
        }


def test_the_action_installs_spanbus_if_it_is_missing(cli: Cli, path: str) -> None:
    """``pip`` is replaced by a program that records its arguments."""
    tools = cli.folder / "tools"
    tools.mkdir()
    for name in ("sh", "env"):
        (tools / name).symlink_to(f"/bin/{name}")
    python = tools / "python3"
    python.write_text('#!/bin/sh\necho "$@" >>pip\n')
    python.chmod(0o755)
    for there, version, asked in (
        (str(tools), "", "-m pip install --quiet spanbus"),
        (str(tools), "0.2.0", "-m pip install --quiet spanbus==0.2.0"),
        (f"{tools}{os.pathsep}{path}", "0.2.0", "-m pip install --quiet spanbus==0.2.0"),
    ):
        (cli.folder / "pip").unlink(missing_ok=True)
        assert action(cli, there, version=version).steps()[0].returncode == 0
        assert (cli.folder / "pip").read_text() == f"{asked}\n"


INCLUDED = """
checks:
  extends: .spanbus
  variables:
    WORKFLOW: checks
other:
  extends: .spanbus
  script:
    - echo before
    - !reference [.spanbus, script]
"""


def test_the_template_for_gitlab_runs_a_workflow(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING)
    text = (ROOT / "deploy" / "ci" / "gitlab.yml").read_text() + INCLUDED
    for name in ("checks", "other"):
        (cli.folder / "spanbus.html").unlink(missing_ok=True)
        job = GitlabJob(text, name, cli.folder, cli.environment({"PATH": path}))
        done = job.script()
        assert done.returncode == 1
        assert "section_start:" in done.stdout
        assert done.stdout.startswith("before\n") is (name == "other")
        artifacts = cast("Json", job.job["artifacts"])
        assert artifacts["when"] == "always"
        assert all(
            (cli.folder / str(kept)).exists() for kept in cast("list[str]", artifacts["paths"])
        )
        assert (cli.folder / ".spanbus" / "store.sqlite3").exists()
        assert job.after_script().returncode == 0


class Jenkins:
    """A declarative Jenkins pipeline as far as a shell can run it: environment, the steps of a stage, ``post { always }``."""

    def __init__(self, cli: Cli, path: str, **more: str) -> None:
        text = (ROOT / "deploy" / "ci" / "Jenkinsfile").read_text()
        stages, _, post = text.partition("  post {")
        self.steps, self.always = (re.findall(r"sh '([^']*)'", part) for part in (stages, post))
        given = {
            "PATH": path,
            "CI": "true",
            "JENKINS_URL": "https://ci.example/",
            "WORKSPACE": str(cli.folder),
            "JOB_NAME": "shop",
            "BUILD_ID": "17",
            "BUILD_NUMBER": "17",
            "BUILD_URL": "https://ci.example/job/shop/17/",
            "GIT_BRANCH": "origin/main",
            "GIT_COMMIT": "a" * 40,
            **more,
        }
        block = re.search(r"  environment \{\n(.*?)\n  \}", text, re.DOTALL)
        assert block is not None
        said = dict(
            re.findall(r"^ +(\w+) = \"(.*)\"$", block[1], re.MULTILINE)
        )  # every line is an assignment
        assert len(said) == len(block[1].splitlines())
        given |= {
            name: re.sub(
                r"\$\{env\.(\w+)( \?: '')?\}", lambda found: given.get(found[1], ""), value
            )
            for name, value in said.items()
        }
        self.cli, self.env = cli, given

    def script(self, step: str) -> list[str]:
        """Return the program that Jenkins starts for ``sh``."""
        file = self.cli.folder / "script.sh"
        file.write_text(f"#!/bin/sh -xe\n{step}\n")
        return ["/bin/sh", "-xe", str(file)]

    def sh(self, step: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.script(step),
            cwd=self.cli.folder,
            env=self.cli.environment(self.env),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def test_the_jenkins_pipeline_runs_a_workflow_and_archives_its_report(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING)
    with Receiver() as receiver:
        jenkins = Jenkins(cli, path, **receiver.env)
        [step], [keep] = jenkins.steps, jenkins.always
        done = jenkins.sh(step)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "spanbus: flushed"
        assert receiver.spans()
        assert jenkins.sh(keep).returncode == 0
    with Store.open(cli.folder / ".spanbus" / "store.sqlite3") as store:
        resource = attributes(store.trace(store.run_head("last").trace_id)[0].resource.attributes)
    assert resource["cicd.pipeline.run.id"] == "17"
    assert resource["cicd.pipeline.run.url.full"] == "https://ci.example/job/shop/17/"
    assert resource["vcs.ref.head.name"] == "main"
    assert "<!doctype html>" in (cli.folder / "spanbus.html").read_text()


def test_the_jenkins_pipeline_needs_no_collector(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING.replace("exit 3", "exit 0"))
    jenkins = Jenkins(cli, path)
    assert jenkins.env["OTEL_EXPORTER_OTLP_ENDPOINT"] == ""
    done = jenkins.sh(jenkins.steps[0])
    assert done.returncode == 0
    assert "telemetry stays in" in done.stderr.splitlines()[-1]


def test_an_aborted_jenkins_build_ends_its_phases_as_cancelled(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(
        "[workflows.checks]\nphases = [\n"
        '  { name = "slow", run = "sh -c \'touch begun; exec sleep 60\'" },\n'
        '  { name = "tidy", needs = ["slow"], when = "always", run = "touch tidied" },\n]\n'
    )
    jenkins = Jenkins(cli, path)
    process = subprocess.Popen(
        jenkins.script(jenkins.steps[0]),
        cwd=cli.folder,
        env=cli.environment(jenkins.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (cli.folder / "begun").exists():
        assert time.monotonic() < deadline, "the phase did not begin"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as Jenkins does, all that the step started
    process.communicate(timeout=60)
    assert (cli.folder / "tidied").exists()
    assert jenkins.sh(jenkins.always[0]).returncode == 0
    shown = cli("show", "--json", env={"SPANBUS_STATE_DIR": jenkins.env["SPANBUS_STATE_DIR"]})
    phases = cast("list[Json]", shown.json()["phases"])
    assert {phase["name"]: phase["result"] for phase in phases} == {
        "slow": "cancellation",
        "tidy": "success",
    }


def test_the_pre_commit_hooks_run(cli: Cli, path: str) -> None:
    (cli.folder / "spanbus.toml").write_text(FAILING)
    entries = re.findall(
        r"^  entry: (.*)$", (ROOT / ".pre-commit-hooks.yaml").read_text(), re.MULTILINE
    )
    assert len(entries) == 2
    run, check = entries
    assert sh(f"{run} checks --only b", cli, {"PATH": path}).returncode == 0
    assert sh(f"{run} checks", cli, {"PATH": path}).returncode == 1
    assert sh(check, cli, {"PATH": path}).returncode == 0
