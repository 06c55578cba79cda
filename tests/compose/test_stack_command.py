"""`spanbus stack` and `spanbus doctor` as a user calls them, on real containers."""

from __future__ import annotations

import json
import re
import shlex
import urllib.parse
from typing import cast

import pytest
from command_line import Cli
from containers import COMPOSE, Composition, Engine
from servers import ROOT, Json, eventually, get

from spanbus._cli.compose import FILE, PORTS

pytestmark = pytest.mark.compose


@pytest.fixture
def user(cli: Cli, composition: Composition) -> Cli:
    """Whose PATH leads to the real Compose, and who says which images there are."""
    folder = cli.folder / "bin"
    folder.mkdir()
    (folder / "docker-compose").symlink_to(composition.engine.compose_argv()[0])
    engine = {
        name: composition.engine.env[name]
        for name in ("DOCKER_HOST", "CONTAINERS_CONF")
        if name in composition.engine.env
    }
    cli.env.update({**engine, "PATH": str(folder), "COMPOSE_PROJECT_NAME": composition.name})
    return cli


def files(composition: Composition) -> list[str]:
    return ["--file", str(ROOT / FILE), "--file", str(composition.override)]


def counted() -> float:
    """Failed runs that the rule of the alerts sees."""
    rule = 'sum(spanbus:phase_failures:15m{cicd_pipeline_name="upgraded"})'
    found = get(f"http://127.0.0.1:9090/api/v1/query?query={urllib.parse.quote(rule)}")
    results = cast("Json", cast("Json", found)["data"])["result"] if found else []
    return sum(float(each["value"][1]) for each in cast("list[dict[str, list[str]]]", results))


needs_compose = pytest.mark.skipif(
    not COMPOSE.exists(), reason="needs the Compose that `make test-compose` fetches"
)


@needs_compose
def test_the_upgrade_of_the_page_keeps_what_was_counted(
    user: Cli, composition: Composition
) -> None:
    """As the page has it; only which files there are is said besides, for the images are those of the tests."""
    page = (ROOT / "docs/how-to/upgrade.md").read_text()
    [_, of_stack] = re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line, comments=True) for line in of_stack.splitlines()]
    assert [words[:2] for words in commands] == [
        ["spanbus", "stack"],
        ["spanbus", "stack"],
        ["spanbus", "doctor"],
    ]

    def fail() -> None:
        assert (
            user("exec", "--workflow", "upgraded", "--name", "check", "--", "/bin/false").code == 1
        )

    fail()
    eventually(lambda: counted() == 1)
    for _, *words in commands:
        besides = files(composition) if words[0] == "stack" else ["--timeout", "60"]
        done = user(*words, *besides, timeout_s=300)
        assert done.code == 0, done.out + done.err
    fail()
    eventually(lambda: counted() == 2)


@needs_compose
def test_stopped_started_and_found_well_by_the_doctor(user: Cli, composition: Composition) -> None:
    engine: Engine = composition.engine
    assert user("stack", "down", "--volumes", *files(composition), timeout_s=300).code == 0
    assert (composition.left(), engine.call("volume", "ls", "-q").split()) == ([], [])
    stopped = user("stack", "status", "--json", *files(composition))
    assert stopped.code == 1
    assert not any(row["answers"] for row in cast("list[Json]", json.loads(stopped.out)))

    started = user("stack", "up", *files(composition), timeout_s=300)
    assert started.code == 0, started.err
    answering = [line.split()[0] for line in started.out.splitlines() if line.endswith("answers")]
    assert answering == [port.what for port in PORTS if port.service != "grafana"]
    assert "export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318" in started.out
    assert user("stack", "status", *files(composition)).code == 0

    well = user("doctor", "--json", "--timeout", "60")  # every address is the default one
    assert well.code == 0, well.out
    checks = {
        str(each["check"]): each["state"] for each in cast("list[Json]", well.json()["checks"])
    }
    assert {
        checks[name]
        for name in (
            "jaeger.trace",
            "prometheus.series",
            "prometheus.rules",
            "prometheus.alerting",
        )
    } == {"ok"}
    assert checks["alertmanager"] == "warning"  # as shipped it tells nobody
