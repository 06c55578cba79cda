"""`spanbus stack`: the program and files that it uses, the addresses that answer, and missing programs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest
import yaml
from command_line import Cli
from hostile import ScriptedServer, html, http

from spanbus._cli.compose import FILE, PORTS, shipped
from spanbus.testing import GrpcReceiver, Receiver

ROOT = Path(__file__).parents[2]
Json = dict[str, object]


class Program:
    """An executable that records its calls and gives scripted answers."""

    def __init__(self, folder: Path, name: str, *, version: str = "2.40.3") -> None:
        folder.mkdir(exist_ok=True)
        self._log = folder / f"{name}.log"
        self._config = folder / f"{name}.json"
        self._code = folder / f"{name}.code"
        self.path = folder / name
        self.path.write_text(
            f"""#!/bin/sh
printf '%s\\n' "$*" >> '{self._log}'
case "$*" in
*"version --short"*) {f"echo {version}" if version else "echo no such command >&2; exit 1"} ;;
*"config --format json"*) [ -f '{self._config}' ] || exit 1; while IFS= read -r line; do echo "$line"; done < '{self._config}' ;;
*) [ -f '{self._code}' ] && read -r code < '{self._code}' && {{ echo 'it broke' >&2; exit "$code"; }}; exit 0 ;;
esac
"""
        )
        self.path.chmod(0o755)

    def calls(self) -> list[str]:
        """Return the calls, without the version checks of the command itself."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [
            line
            for line in lines
            if "version --short" not in line and "config --format json" not in line
        ]

    def fails(self, code: int) -> None:
        self._code.write_text(f"{code}\n")

    def says_config(self, text: str) -> None:
        self._config.write_text(text + "\n")


@pytest.fixture
def path(cli: Cli) -> Path:
    """The only folder on the PATH."""
    folder = cli.folder / "bin"
    folder.mkdir()
    cli.env["PATH"] = str(folder)
    return folder


@pytest.fixture
def checkout(cli: Cli) -> Path:
    """A foreign checkout above the folder of the command, with files named like those of the stack; none may be started."""
    top = cli.folder / "checkout"
    for name in (FILE, "collector-config.yaml", "deploy/prometheus/alerts.yml"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text("")
    (top / "sub" / "below").mkdir(parents=True)
    return top


@pytest.fixture
def servers() -> Generator[str]:
    """All servers, and the output of Compose for their ports."""
    jaeger, health = http(b'{"data": [], "total": 0}'), http(b'{"database": "ok"}')
    prometheus, alertmanager = (
        http(b'{"status": "success", "data": {"version": "3"}}'),
        http(b'{"versionInfo": {"version": "1"}, "cluster": {"status": "ready"}}'),
    )
    with (
        Receiver() as otlp,
        GrpcReceiver() as grpc,
        ScriptedServer(jaeger) as one,
        ScriptedServer(prometheus) as two,
        ScriptedServer(alertmanager) as three,
        ScriptedServer(health) as four,
    ):
        urls = [otlp.url, grpc.url, one.url, two.url, three.url, four.url]
        services: dict[str, dict[str, list[Json]]] = {}
        for port, url in zip(PORTS, urls, strict=True):
            services.setdefault(port.service, {"ports": []})["ports"].append(
                {"target": port.inside, "published": url.rpartition(":")[2], "host_ip": "127.0.0.1"}
            )
        yield json.dumps({"name": "spanbus", "services": services})


def below(cli: Cli, folder: Path) -> Cli:
    return Cli(folder, {**cli.env, "SPANBUS_STATE_DIR": str(cli.folder / "state")})


# --- up ---------------------------------------------------------------------------------------------------------------


def test_up_starts_the_shipped_stack_and_prints_where_everything_is(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    docker = Program(path, "docker")
    docker.says_config(servers)
    done = below(cli, checkout / "sub" / "below")("stack", "up")
    assert done.code == 0, done.err
    assert docker.calls() == [f"compose -f {shipped(ROOT)} up -d"]
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "OTLP/HTTP",
        "OTLP/gRPC",
        "Jaeger",
        "Prometheus",
        "Alertmanager",
    ]
    assert all(line.endswith("answers") for line in lines[:5])
    port = json.loads(servers)["services"]["collector"]["ports"][0]["published"]
    assert lines[-1] == f"export OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{port}"


def test_up_with_grafana_starts_its_profile_and_waits_for_it(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    docker = Program(path, "docker")
    docker.says_config(servers)
    done = below(cli, checkout)("stack", "up", "--grafana")
    assert done.code == 0
    assert docker.calls() == [f"compose -f {shipped(ROOT)} --profile grafana up -d"]
    assert "Grafana" in done.out


def test_up_names_servers_that_do_not_answer_in_time(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    document = json.loads(servers)
    with ScriptedServer(html()) as other:
        document["services"]["jaeger"]["ports"][0]["published"] = other.url.rpartition(":")[2]
        Program(path, "docker").says_config(json.dumps(document))
        done = below(cli, checkout)("stack", "up", "--wait", "0.2")
    assert done.code == 1
    [line] = [line for line in done.out.splitlines() if line.startswith("Jaeger")]
    assert "is not Jaeger" in line
    assert "not everything answers" in done.err


def test_an_error_of_compose_is_exit_code_one_with_its_message(
    cli: Cli, path: Path, checkout: Path
) -> None:
    Program(path, "docker").fails(17)
    done = below(cli, checkout)("stack", "up")
    assert done.code == 1
    assert "it broke" in done.err
    assert "could not start it" in done.err
    assert done.out == ""


def test_given_compose_files_are_used_in_order(cli: Cli, path: Path, servers: str) -> None:
    docker = Program(path, "docker")
    docker.says_config(servers)
    for name in ("one.yml", "two.yml"):
        (cli.folder / name).write_text("")
    assert cli("stack", "up", "--file", "one.yml", "-f", "two.yml").code == 0
    assert docker.calls() == [f"compose -f {cli.folder}/one.yml -f {cli.folder}/two.yml up -d"]


def test_a_missing_compose_file_is_one_line_and_exit_code_two(cli: Cli, path: Path) -> None:
    docker = Program(path, "docker")
    done = cli("stack", "up", "--file", "gone.yml")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("spanbus: --file gone.yml is not there")
    assert docker.calls() == []


# --- which program ----------------------------------------------------------------------------------------------------


def test_without_compose_the_error_has_a_remedy(cli: Cli, path: Path, checkout: Path) -> None:
    done = below(cli, checkout)("stack", "up")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "no Compose was found" in done.err
    assert "spanbus up" in done.err


def test_without_the_plugin_docker_compose_is_used(cli: Cli, path: Path, checkout: Path) -> None:
    docker, standalone = Program(path, "docker", version=""), Program(path, "docker-compose")
    assert below(cli, checkout)("stack", "down").code == 0
    assert docker.calls() == []
    assert standalone.calls() == [f"-f {shipped(ROOT)} --profile grafana down"]


def test_with_an_old_docker_compose_podman_is_used(cli: Cli, path: Path, checkout: Path) -> None:
    old, podman = Program(path, "docker-compose", version="1.29.2"), Program(path, "podman")
    assert below(cli, checkout)("stack", "down").code == 0
    assert old.calls() == []
    assert podman.calls() == [f"compose -f {shipped(ROOT)} --profile grafana down"]


def test_the_tried_programs_are_reported(cli: Cli, path: Path, checkout: Path) -> None:
    Program(path, "docker", version="")
    Program(path, "docker-compose", version="1.29.2")
    done = below(cli, checkout)("stack", "down")
    assert done.code == 2
    assert "`docker compose` does not work" in done.err
    assert "`docker-compose` is version 1, which is too old" in done.err


def test_a_program_that_cannot_be_executed_is_skipped(cli: Cli, path: Path, checkout: Path) -> None:
    (path / "docker").write_bytes(b"\x7fELF nonsense")
    (path / "docker").chmod(0o755)
    standalone = Program(path, "docker-compose")
    assert below(cli, checkout)("stack", "down").code == 0
    assert len(standalone.calls()) == 1


# --- which file -------------------------------------------------------------------------------------------------------


def test_a_foreign_compose_file_is_never_started(cli: Cli, path: Path) -> None:
    docker = Program(path, "docker")
    (cli.folder / FILE).write_text("services: {}\n")
    cli("stack", "down")
    assert docker.calls() == [f"compose -f {shipped(cli.folder)} --profile grafana down"]
    assert shipped(cli.folder) != cli.folder / FILE


def test_away_from_a_checkout_the_file_beside_the_sources_or_in_the_package_is_found(
    tmp_path: Path,
) -> None:
    found = shipped(tmp_path)
    assert found is not None
    assert yaml.safe_load(found.read_text())["name"] == "spanbus"


def test_the_wheel_holds_the_stack_with_every_file_that_compose_mounts(tmp_path: Path) -> None:
    if not (ROOT / FILE).exists():
        pytest.skip("an installed package has no sources to build")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    found = tmp_path / "site" / "spanbus" / "stack_files" / FILE
    services = cast("dict[str, Json]", yaml.safe_load(found.read_text())["services"])
    mounted = {
        str(mount["source"])
        for service in services.values()
        for mount in cast("list[Json]", service.get("volumes", []))
        if mount["type"] == "bind"
    }
    assert len(mounted) >= 4
    for source in mounted:
        inside, outside = found.parent / source, ROOT / source
        assert inside.is_dir() == outside.is_dir()
        assert inside.exists(), source
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); from pathlib import Path; from spanbus._cli.compose import shipped; print(shipped(Path({str(tmp_path)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(found)


def test_the_addresses_without_compose_are_those_of_the_shipped_file() -> None:
    found = shipped(ROOT)
    assert found is not None
    services = yaml.safe_load(found.read_text())["services"]
    published = {
        (name, str(port)) for name, service in services.items() for port in service.get("ports", [])
    }
    assert published == {(port.service, f"{port.default}:{port.inside}") for port in PORTS}


# --- down and status --------------------------------------------------------------------------------------------------


def test_down_keeps_volumes_unless_asked_to_delete_them(
    cli: Cli, path: Path, checkout: Path
) -> None:
    docker = Program(path, "docker")
    here = below(cli, checkout)
    assert (here("stack", "down").code, here("stack", "down", "--volumes").code) == (0, 0)
    prefix = f"compose -f {shipped(ROOT)} --profile grafana"
    assert docker.calls() == [f"{prefix} down", f"{prefix} down --volumes"]


def test_a_failing_down_is_exit_code_one(cli: Cli, path: Path, checkout: Path) -> None:
    docker = Program(path, "docker")
    docker.fails(1)
    assert below(cli, checkout)("stack", "down").code == 1
    assert docker.calls() == [f"compose -f {shipped(ROOT)} --profile grafana down"]


def test_status_lists_the_servers_that_answer(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    docker = Program(path, "docker")
    docker.says_config(servers)
    here = below(cli, checkout)
    done = here("stack", "status", "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)
    assert [row["what"] for row in rows] == [port.what for port in PORTS]
    assert all(row["answers"] and row["message"] == "" for row in rows)
    assert docker.calls() == []


def test_status_counts_a_server_that_does_not_answer_as_a_failure_but_not_grafana(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    docker = Program(path, "docker")
    document = json.loads(servers)
    document["services"]["grafana"]["ports"][0]["published"] = "1"
    docker.says_config(json.dumps(document))
    here = below(cli, checkout)
    assert here("stack", "status").code == 0
    document["services"]["prometheus"]["ports"][0]["published"] = "1"
    docker.says_config(json.dumps(document))
    done = here("stack", "status")
    assert done.code == 1
    assert [
        line.split()[0] for line in done.out.splitlines() if line.endswith("does not answer")
    ] == ["Prometheus", "Grafana"]


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '{"services": {"collector": {"ports": [null, {"target": "4318"}, {"target": 4318, "published": "x"}]}}}',
        "[" * 50_000,
    ],
)
def test_invalid_compose_output_gives_no_traceback(
    cli: Cli, path: Path, checkout: Path, config: str
) -> None:
    Program(path, "docker").says_config(config)
    done = below(cli, checkout)("stack", "status", "--json")
    assert done.code in (0, 1)
    assert isinstance(json.loads(done.out), list)


# --- without containers -----------------------------------------------------------------------------------------------


def test_local_names_missing_binaries_and_their_source(cli: Cli, path: Path) -> None:
    for name in ("jaeger", "prometheus"):
        Program(path, name)
    done = cli("stack", "up", "--local")
    assert (done.code, done.out) == (2, "")
    assert "not found on the PATH: otelcol-contrib (https://" in done.err
    assert "alertmanager (https://" in done.err
    assert "jaeger" not in done.err
    done = cli("stack", "up", "--local", "--bin", str(cli.folder))
    assert f"not found in {cli.folder}: otelcol-contrib" in done.err


@pytest.mark.parametrize(
    "words",
    [["--local", "--grafana"], ["--local", "--file", "x.yml"], ["--bin", "."], ["--data", "."]],
    ids=" ".join,
)
def test_options_for_compose_and_for_binaries_are_exclusive(cli: Cli, words: list[str]) -> None:
    done = cli("stack", "up", *words)
    assert done.code == 2
    assert "--local takes the shipped files" in done.err or "go with --local" in done.err


def test_a_stack_of_a_cloned_repository_is_named_and_not_started(
    cli: Cli, path: Path, checkout: Path, servers: str
) -> None:
    docker = Program(path, "docker")
    docker.says_config(servers)
    done = below(cli, checkout / "sub")("stack", "up")
    assert str(checkout) not in " ".join(docker.calls())
    assert f"--file {checkout / FILE} takes it" in done.err
