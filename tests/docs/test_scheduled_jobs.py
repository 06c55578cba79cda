"""The crontab and the systemd unit of the how-to page, run as cron and systemd would run them: with next to no environment."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from spanbus._store.store import Store
from spanbus.testing import Receiver

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "scheduled-jobs.md").read_text()
SOURCES = Path(__file__).parents[2] / "src"


class Machine:
    """A home directory, and a folder of programs in the place of those that the page names."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin = folder / "home", folder / "bin"
        self.home.mkdir()
        self.bin.mkdir()
        path = ":".join([str(SOURCES), *filter(None, sys.path)])
        self.program(
            "spanbus", f'PYTHONPATH={shlex.quote(path)} exec {sys.executable} -P -m spanbus "$@"'
        )
        self.program("backup", "echo backed up; exit 7")

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """``text`` with the programs of this machine."""
        return re.sub(r"/usr/(local/)?bin/(?=spanbus|backup)", f"{self.bin}/", text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def crontab() -> tuple[dict[str, str], list[str]]:
    """Variables and commands of the page's crontab lines, read as crontab(5) says."""
    variables: dict[str, str] = {}
    commands: list[str] = []
    for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if (found := re.fullmatch(r"([A-Z_]+)=(.*)", line)) is not None:
                variables[found[1]] = found[2]
            else:
                fields = line.split(None, 5)
                assert all(re.fullmatch(r"[\d*/,-]+", field) for field in fields[:5]), line
                assert "%" not in fields[5].replace("\\%", "")  # cron makes a newline of it
                commands.append(fields[5].replace("\\%", "%"))
    return variables, commands


def as_cron_does(
    machine: Machine, command: str, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    env = {
        "HOME": str(machine.home),
        "LOGNAME": "ops",
        "SHELL": "/bin/sh",
        "PATH": "/usr/bin:/bin",
        **variables,
    }
    return subprocess.run(
        ["/bin/sh", "-c", machine.here(command)],
        cwd=machine.home,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_crontab_runs_with_the_environment_that_cron_gives(
    machine: Machine, delivery: str
) -> None:
    variables, [job, flush] = crontab()
    variables["SPANBUS_DELIVERY"] = delivery
    variables["SPANBUS_EXIT_TIMEOUT_S"] = "20"  # the machine may be busy
    with Receiver() as receiver:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        done = as_cron_does(machine, job, variables)
        assert (done.returncode, done.stdout) == (7, "backed up\n"), done.stderr
        flushed = as_cron_does(machine, flush, variables)
        assert flushed.returncode == 0, flushed.stderr
        assert {span.name for span in receiver.spans()} >= {"RUN nightly", "backup"}
    state = machine.home / ".local" / "state" / "spanbus"
    with Store.open(state / "store.sqlite3") as store:
        run = store.run("last")
        assert store.run_head("last").project == "spanbus"
    assert (run.workflow, run.result) == ("nightly", "failure")
    assert [phase.name for phase in run.phases] == ["backup"]


def test_what_could_not_be_sent_goes_with_the_line_of_its_own(machine: Machine) -> None:
    variables, [job, flush] = crontab()
    with Receiver() as receiver:
        url = receiver.url
    variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = url  # nobody listens there now
    assert as_cron_does(machine, job, variables).returncode == 7
    with Receiver() as receiver:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        assert as_cron_does(machine, flush, variables).returncode == 0
        assert {span.name for span in receiver.spans()} >= {"RUN nightly", "backup"}


def test_the_unit_runs_without_a_home(machine: Machine, tmp_path: Path, delivery: str) -> None:
    [service] = re.findall(
        r"^```ini\n# /etc/systemd/system/backup.service\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    environment = dict(
        line.partition("=")[2].split("=", 1)
        for line in service.splitlines()
        if line.startswith("Environment=")
    )
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(service)
    assert unit["Service"]["StateDirectory"] == "spanbus"
    assert environment["SPANBUS_STATE_DIR"] == "/var/lib/spanbus"
    environment["SPANBUS_STATE_DIR"] = str(tmp_path / "var")
    environment["SPANBUS_DELIVERY"] = delivery
    with Receiver() as receiver:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        done = subprocess.run(
            shlex.split(machine.here(unit["Service"]["ExecStart"])),
            cwd="/",
            env={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
                **environment,
                "SPANBUS_EXIT_TIMEOUT_S": "20",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stdout) == (7, "backed up\n"), done.stderr
    assert "Traceback" not in done.stderr
    with Store.open(tmp_path / "var" / "store.sqlite3") as store:
        head = store.run_head("last")
    assert (head.workflow, head.project) == ("nightly", "backup")
