"""Observers under Kubernetes and systemd: what is shipped asks for what an observer needs, and for no more."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GROWTH = ROOT / "deploy" / "growth"
KUBERNETES = GROWTH / "observers.kubernetes.yaml"
UNIT = GROWTH / "spanbus-observe@.service"
PARTITIONS = 64
Json = dict[str, Any]


def documents() -> dict[str, Json]:
    found = list(yaml.safe_load_all(KUBERNETES.read_text()))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def pod(found: dict[str, Json]) -> Json:
    return cast("Json", found["StatefulSet"]["spec"]["template"]["spec"])


def container(found: dict[str, Json]) -> Json:
    [one] = pod(found)["containers"]
    return cast("Json", one)


def environment(found: dict[str, Json]) -> dict[str, object]:
    """Names with their values, or the field that they are taken from."""
    [config] = container(found)["envFrom"]
    assert config == {"configMapRef": {"name": found["ConfigMap"]["metadata"]["name"]}}
    own = {
        each["name"]: each.get("value") or each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in container(found)["env"]
    }
    return {**found["ConfigMap"]["data"], **own}


def selects_its_pods(found: dict[str, Json]) -> bool:
    stateful = found["StatefulSet"]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    [spread] = pod(found)["topologySpreadConstraints"]
    selectors = [
        stateful["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ]
    return all(selector == labels for selector in selectors)


def every_share_runs_once(found: dict[str, Json]) -> bool:
    command = container(found)["command"]
    share = re.fullmatch(r"\$\(POD_NAME\)/(\d+)", command[-1])
    return (
        command[:-1] == ["spanbus", "observe", "--share"]
        and share is not None
        and int(share[1]) == found["StatefulSet"]["spec"]["replicas"]
        and PARTITIONS % int(share[1]) == 0
        and environment(found).get("POD_NAME") == "metadata.name"
        and "ordinals" not in found["StatefulSet"]["spec"]
    )


def keeps_its_state(found: dict[str, Json]) -> bool:
    [claim] = found["StatefulSet"]["spec"]["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in container(found)["volumeMounts"]}
    state = str(environment(found).get("SPANBUS_STATE_DIR", ""))
    return state.startswith(f"{mounts.get(claim['metadata']['name'])}/")


def lets_go_in_good_order(found: dict[str, Json]) -> bool:
    return int(pod(found).get("terminationGracePeriodSeconds", 0)) >= 30


def every_volume_is_there(found: dict[str, Json]) -> bool:
    claims = found["StatefulSet"]["spec"]["volumeClaimTemplates"]
    there = {each["name"] for each in pod(found)["volumes"]}
    there |= {each["metadata"]["name"] for each in claims}
    return {each["name"] for each in container(found)["volumeMounts"]} == there


def has_no_rights(found: dict[str, Json]) -> bool:
    of_pod, of_container = pod(found)["securityContext"], container(found)["securityContext"]
    return (
        pod(found)["automountServiceAccountToken"] is False
        and of_pod["runAsNonRoot"] is True
        and of_pod["runAsUser"] > 0
        and of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        and of_container["allowPrivilegeEscalation"] is False
        and of_container["readOnlyRootFilesystem"] is True
        and of_container["capabilities"] == {"drop": ["ALL"]}
        and not ({"hostNetwork", "hostPID", "hostIPC"} & set(pod(found)))
        and not any("hostPath" in each for each in pod(found)["volumes"])
    )


def is_bounded(found: dict[str, Json]) -> bool:
    return "memory" in container(found)["resources"]["limits"]


def is_pinned(found: dict[str, Json]) -> bool:
    version = re.search(r'"([\d.]+)', (ROOT / "src/spanbus/_version.py").read_text())
    assert version is not None
    return str(container(found)["image"]).endswith(f":{version[1]}")


RULES: list[tuple[Callable[[dict[str, Json]], bool], Callable[[dict[str, Json]], object]]] = [
    (selects_its_pods, lambda found: found["Service"]["spec"].update(selector={"app": "x"})),
    (every_share_runs_once, lambda found: found["StatefulSet"]["spec"].update(replicas=3)),
    (keeps_its_state, lambda found: found["StatefulSet"]["spec"]["volumeClaimTemplates"][0]["metadata"].update(name="x")),
    (lets_go_in_good_order, lambda found: pod(found).update(terminationGracePeriodSeconds=5)),
    (every_volume_is_there, lambda found: pod(found)["volumes"].pop()),
    (has_no_rights, lambda found: container(found)["securityContext"].update(capabilities={})),
    (is_bounded, lambda found: container(found)["resources"]["limits"].pop("memory")),
    (is_pinned, lambda found: container(found).update(image="registry.example.com/spanbus:latest")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "breaks"), RULES, ids=[rule.__name__ for rule, _ in RULES])
def test_the_stateful_set(
    rule: Callable[[dict[str, Json]], bool], breaks: Callable[[dict[str, Json]], object]
) -> None:
    assert rule(documents())
    broken = copy.deepcopy(documents())
    breaks(broken)
    assert not rule(broken), "what breaks the rule is found"


def test_its_kinds_and_their_versions() -> None:
    assert {kind: each["apiVersion"] for kind, each in documents().items()} == {
        "ConfigMap": "v1",
        "Service": "v1",
        "PodDisruptionBudget": "policy/v1",
        "StatefulSet": "apps/v1",
    }
    found = documents()
    assert found["StatefulSet"]["spec"]["serviceName"] == found["Service"]["metadata"]["name"]
    assert found["Service"]["spec"]["clusterIP"] == "None"


def test_kubectl_reads_the_stateful_set(tmp_path: Path) -> None:
    """By the types of its own: a field of a wrong type, or an unknown kind, is an error."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    file = tmp_path / "stateful-set.yaml"
    file.write_text(yaml.safe_dump(documents()["StatefulSet"]))
    done = subprocess.run(
        [kubectl, "set", "image", "--local", "-f", str(file), "observe=other:1", "-o", "yaml"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = container({**documents(), "StatefulSet": yaml.safe_load(done.stdout)})
    assert read == {**container(documents()), "image": "other:1"}, "every field is one of its own"


def settings() -> dict[str, list[str]]:
    """What the unit says, a list for each name."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, there, value = line.partition("=")
        if there and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit() -> None:
    said = settings()
    assert said["ExecStart"] == ["/opt/spanbus/bin/spanbus observe --share %i/${SPANBUS_SHARES}"]
    [state] = said["StateDirectory"]
    assert state == "spanbus-observe-%i", "each share its own"
    assert f"SPANBUS_STATE_DIR=%S/{state}" in said["Environment"]
    assert said["Restart"] == ["on-failure"] and said["StartLimitIntervalSec"] == ["0"]
    assert int(said["TimeoutStopSec"][0]) >= 30
    assert said["DynamicUser"] == ["yes"] and said["CapabilityBoundingSet"] == [""]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "spanbus-observe@.service"
    unit.write_text(UNIT.read_text().replace("/opt/spanbus/bin/spanbus", sys.executable))
    instance = tmp_path / "spanbus-observe@2.service"
    instance.symlink_to(unit)
    done = subprocess.run(
        [analyze, "verify", str(instance)], capture_output=True, text=True, timeout=60, check=False
    )
    mine = [line for line in (done.stdout + done.stderr).splitlines() if "spanbus-observe" in line]
    assert mine == []
