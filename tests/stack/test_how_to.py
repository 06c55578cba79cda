"""What the how-to pages show is accepted by the servers that read it, and does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import yaml
from command_line import Cli
from servers import ROOT, Json, Server, Stack, binary, eventually, free_port, get

pytestmark = pytest.mark.stack

HOW_TO = ROOT / "docs" / "how-to"
KUBERNETES = ROOT / "deploy" / "kubernetes"
RUNBOOKS = ROOT / "docs" / "runbooks"


def blocks(page: str) -> dict[str, str]:
    """The YAML of a page by what its first line says it is."""
    found = re.findall(
        r"^```yaml\n# (.+?)\n(.*?)^```$", (HOW_TO / page).read_text(), re.MULTILINE | re.DOTALL
    )
    return dict(cast("list[tuple[str, str]]", found))


def run(*argv: str, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_collector_takes_the_vendors_exporter(tmp_path: Path) -> None:
    (tmp_path / "vendor.yaml").write_text(blocks("send-to-a-vendor.md")["vendor.yaml"])
    run(
        binary("otelcol"),
        "validate",
        f"--config={ROOT / 'collector-config.yaml'}",
        f"--config={tmp_path / 'vendor.yaml'}",
        env={"QUEUE_DIR": str(tmp_path), "VENDOR_ENDPOINT": "https://x.example", "VENDOR_KEY": "k"},
    )


def test_alertmanager_takes_every_way_and_the_route(tmp_path: Path) -> None:
    shown = blocks("alerts-by-slack-and-mail.md")
    [route] = yaml.safe_load(blocks("several-projects-one-stack.md")["alertmanager.yml: a route"])
    for number, part in enumerate(shown.values()):
        config = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
        change = yaml.safe_load(part)
        config["global"] |= change.get("global", {})
        config["receivers"] = [
            *(each for each in config["receivers"] if each["name"] != "people"),
            *change["receivers"],
            {"name": route["receiver"]},
        ]
        config["route"]["routes"].insert(-1, route)
        file = tmp_path / f"{number}.yml"
        file.write_text(yaml.safe_dump(config))
        run(binary("amtool"), "check-config", str(file))
    assert len(shown) == 3


def lines(page: Path) -> list[str]:
    """The commands of a page's shell blocks."""
    found = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [
        command for text in found for command in text.replace("\\\n", "").splitlines() if command
    ]


def shell(cli: Cli, stack: Stack, command: str) -> int:
    """Run a command of a page as it stands there, against this stack."""
    folder = cli.folder / "bin"
    if not folder.exists():
        folder.mkdir()
        (folder / "amtool").symlink_to(binary("amtool"))
        (folder / "spanbus").write_text(f'#!/bin/sh\nexec {sys.executable} -m spanbus "$@"\n')
        (folder / "spanbus").chmod(0o700)
    here = command.replace("http://127.0.0.1:9093", stack.alertmanager_url)
    done = cli.run(["bash", "-c", here], env={"PATH": f"{folder}:{os.environ['PATH']}"})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def test_the_commands_that_try_alerts_do_what_the_page_says(stack: Stack, cli: Cli) -> None:
    added, failing, passing = lines(HOW_TO / "alerts-by-slack-and-mail.md")
    told = stack.webhook.named
    assert shell(cli, stack, added) == 0
    [alert] = cast("list[Json]", eventually(lambda: told("Test")))
    assert alert["annotations"] == {"summary": "is anybody there?"}
    assert shell(cli, stack, failing) == 1
    eventually(lambda: told("WorkflowPhaseFailing", cicd_pipeline_name="try"))
    assert shell(cli, stack, passing) == 0
    eventually(lambda: told("WorkflowPhaseFailing", "resolved", cicd_pipeline_name="try"))


def test_the_silences_of_the_runbooks_are_taken(stack: Stack, cli: Cli) -> None:
    pages = [page for page in RUNBOOKS.glob("*.md") if "amtool" in page.read_text()]
    assert len(pages) == 2
    for page in pages:
        [silence] = lines(page)
        assert shell(cli, stack, silence) == 0, page
    found = cast("list[Json]", get(f"{stack.alertmanager_url}/api/v2/silences"))
    silenced = {
        matcher["value"]
        for each in found
        for matcher in cast("list[dict[str, str]]", each["matchers"])
        if matcher["name"] == "alertname"
    }
    assert silenced == {page.stem for page in pages}


def test_the_cron_job_is_one_with_the_shipped_collector_beside_it() -> None:
    manifest, claim = yaml.safe_load_all((KUBERNETES / "cronjob.yaml").read_text())
    assert (manifest["kind"], claim["kind"]) == ("CronJob", "PersistentVolumeClaim")
    pod = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [sidecar], [job] = pod["initContainers"], pod["containers"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert sidecar["image"] == compose["collector"]["image"]
    mounted = {mount["name"] for each in (sidecar, job) for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    of_the_page = (HOW_TO / "kubernetes-cronjob.md").read_text()
    sources = {key: each[key] for each in pod["volumes"] for key in each if key != "name"}
    assert f"create configmap {sources['configMap']['name']} " in of_the_page
    assert sources["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [secret] = [each["valueFrom"]["secretKeyRef"] for each in sidecar["env"] if "valueFrom" in each]
    assert f"{secret['name']} --from-literal={secret['key']}=" in of_the_page
    [argument] = sidecar["args"]
    assert Path(argument).name == "sidecar.yaml"


def test_a_sidecar_acknowledges_what_its_gateway_has_and_the_spool_keeps_the_rest(
    tmp_path: Path, own_stack: Stack
) -> None:
    config = yaml.safe_load((KUBERNETES / "sidecar.yaml").read_text())
    port = free_port()
    config["receivers"]["otlp"]["protocols"]["http"]["endpoint"] = f"127.0.0.1:{port}"
    health = free_port()  # only to see that it is up
    config["extensions"] = {"health_check": {"endpoint": f"127.0.0.1:{health}"}}
    config["service"]["extensions"] = ["health_check"]
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(config))
    sidecar = Server(
        "sidecar",
        [binary("otelcol"), f"--config={tmp_path / 'sidecar.yaml'}"],
        tmp_path,
        f"http://127.0.0.1:{health}/",
        {
            "GATEWAY_OTLP": f"127.0.0.1:{own_stack.ports['otlp_grpc']}",
            "GATEWAY_INSECURE": "true",
        },
    )
    folder = tmp_path / "job"
    folder.mkdir()
    cli = Cli(
        folder,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "SPANBUS_EXIT_TIMEOUT_S": "5",
        },
    )

    def fail() -> None:
        assert cli("exec", "--workflow", "job", "--name", "check", "--", "false").code == 1

    try:
        sidecar.start()
        fail()
        sidecar.kill()  # with the pod: it held nothing
        own_stack.collector.stop()
        sidecar.start()
        cli.env["SPANBUS_EXIT_TIMEOUT_S"] = "0.25"
        fail()
        sidecar.kill()
        own_stack.collector.start()
        sidecar.start()
        assert cli("flush").code == 0
    finally:
        sidecar.stop()
    rule = 'spanbus:phase_failures:15m{cicd_pipeline_name="job"}'
    eventually(lambda: own_stack.value(rule) == 2)
