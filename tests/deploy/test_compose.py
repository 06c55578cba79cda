"""docker-compose.yml keeps every rule that makes it safe to start on anybody's machine."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
Service = dict[str, object]
Services = dict[str, Service]

IMAGES = {
    "otel/opentelemetry-collector-contrib": "COLLECTOR_IMAGE_VERSION",
    "jaegertracing/jaeger": "JAEGER_IMAGE_VERSION",
    "prom/prometheus": "PROMETHEUS_IMAGE_VERSION",
    "prom/alertmanager": "ALERTMANAGER_IMAGE_VERSION",
    "grafana/grafana": "GRAFANA_IMAGE_VERSION",
}
PORTS = {"4317", "4318", "16686", "9090", "9093", "3000"}
ROOT_FOR_A_MOMENT = "volume-owner"


def document() -> dict[str, object]:
    return cast("dict[str, object]", yaml.safe_load((ROOT / "docker-compose.yml").read_text()))


def services() -> Services:
    return cast("Services", document()["services"])


def versions() -> dict[str, str]:
    lines = (ROOT / "tools/versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def mounts(service: Service) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", service.get("volumes") or [])


def broken(name: str, service: Service) -> set[str]:
    """The rules that a service breaks."""
    found: set[str] = set()

    def rule(title: str, kept: bool) -> None:
        if not kept:
            found.add(title)

    image, _, tag = str(service["image"]).rpartition(":")
    rule(
        "pinned",
        IMAGES.get(image) is not None
        and versions().get(IMAGES[image]) == tag
        and "build" not in service,
    )
    for port in cast("list[object]", service.get("ports") or []):
        host, _, rest = str(port).partition(":")
        rule("loopback", isinstance(port, str) and host == "127.0.0.1" and rest.count(":") == 1)
        rule("known ports", rest.split(":")[0] in PORTS and len(set(rest.split(":"))) == 1)
    rule("read only", service.get("read_only") is True)
    rule(
        "no capabilities",
        service.get("cap_drop") == ["ALL"]
        and set(cast("list[str]", service.get("cap_add") or []))
        <= ({"CHOWN"} if name == ROOT_FOR_A_MOMENT else set[str]()),
    )
    rule(
        "no new privileges",
        service.get("security_opt") == ["no-new-privileges:true"] and not service.get("privileged"),
    )
    user = re.fullmatch(r"(\d+):(\d+)", str(service.get("user")))
    rule("a user of its own", user is not None and (user[1] != "0" or name == ROOT_FOR_A_MOMENT))
    rule("bounded memory", re.fullmatch(r"\d+[mg]", str(service.get("mem_limit"))) is not None)
    rule(
        "bounded processes",
        isinstance(service.get("pids_limit"), int)
        and 0 < cast("int", service["pids_limit"]) <= 1024,
    )
    logging = cast("dict[str, object]", service.get("logging") or {})
    rule(
        "bounded logs",
        set(cast("dict[str, str]", logging.get("options") or {})) >= {"max-size", "max-file"},
    )
    rule(
        "the machine stays out",
        not {"devices", "pid", "ipc", "userns_mode", "env_file", "group_add"} & set(service)
        and service.get("network_mode") in (None, "none"),
    )
    for mount in mounts(service):
        if mount["type"] == "bind":
            rule("configuration is read only", mount.get("read_only") is True)
            rule(
                "configuration is ours",
                (ROOT / str(mount["source"])).exists()
                and str(mount["source"]).startswith("./")
                and mount["bind"] == {"create_host_path": False},
            )
        else:
            rule(
                "named volumes",
                mount["type"] == "volume"
                and mount.get("source") in cast("dict[str, object]", document()["volumes"]),
            )
    environment = cast("dict[str, object]", service.get("environment") or {})
    rule(
        "no secret",
        not re.search(
            r"(?i)password|secret|token",
            " ".join(
                name for name in environment if name != "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"
            ),
        ),
    )
    rule(
        "no debugging door",
        not re.search(
            r"(?i)pprof|zpages|enable-admin-api|enable-lifecycle|1777|55679",
            yaml.safe_dump(service),
        ),
    )
    return found


@pytest.mark.parametrize("name", sorted(services()))
def test_every_service_keeps_every_rule(name: str) -> None:
    assert broken(name, services()[name]) == set()


BREAKS: dict[str, Callable[[Service], object]] = {
    "pinned": lambda service: service.update(image="jaegertracing/jaeger:latest"),
    "loopback": lambda service: service.update(ports=["16686:16686"]),
    "known ports": lambda service: service.update(ports=["127.0.0.1:13134:13134"]),
    "read only": lambda service: service.pop("read_only"),
    "no capabilities": lambda service: service.update(cap_add=["NET_ADMIN"]),
    "no new privileges": lambda service: service.update(privileged=True),
    "a user of its own": lambda service: service.update(user="0:0"),
    "bounded memory": lambda service: service.pop("mem_limit"),
    "bounded processes": lambda service: service.pop("pids_limit"),
    "bounded logs": lambda service: service.update(logging={"driver": "json-file"}),
    "the machine stays out": lambda service: service.update(network_mode="host"),
    "configuration is read only": lambda service: mounts(service)[0].pop("read_only"),
    "configuration is ours": lambda service: mounts(service)[0].update(
        source="/var/run/docker.sock"
    ),
    "named volumes": lambda service: mounts(service).append({"type": "volume", "target": "/data"}),
    "no secret": lambda service: cast("Service", service["environment"]).update(
        ADMIN_PASSWORD="admin"
    ),
    "no debugging door": lambda service: cast("list[str]", service["command"]).append(
        "--extensions.pprof=0.0.0.0:1777"
    ),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_service_that_breaks_a_rule_is_found_out(rule: str) -> None:
    service = copy.deepcopy(services()["jaeger"])
    BREAKS[rule](service)
    assert broken("jaeger", service) == {rule}


def test_only_grafana_waits_for_its_profile_and_every_version_is_used() -> None:
    assert {
        name: service["profiles"] for name, service in services().items() if "profiles" in service
    } == {"grafana": ["grafana"]}
    assert {str(service["image"]).rpartition(":")[0] for service in services().values()} == set(
        IMAGES
    )
    assert set(IMAGES.values()) == {name for name in versions() if name.endswith("_IMAGE_VERSION")}


def test_what_is_kept_lies_in_a_named_volume() -> None:
    kept = {
        name: {
            str(mount["source"]): str(mount["target"])
            for mount in mounts(service)
            if mount["type"] == "volume"
        }
        for name, service in services().items()
    }
    assert kept == {
        "volume-owner": {"queue": "/queue", "jaeger": "/badger"},
        "collector": {"queue": "/var/lib/otelcol/queue"},
        "jaeger": {"jaeger": "/badger"},
        "prometheus": {"prometheus": "/prometheus"},
        "alertmanager": {"alertmanager": "/alertmanager"},
        "grafana": {"grafana": "/var/lib/grafana"},
    }
    assert set(cast("dict[str, object]", document()["volumes"])) == {
        name for volumes in kept.values() for name in volumes
    }


def test_the_one_that_is_root_for_a_moment_has_no_network_and_does_not_come_back() -> None:
    service = services()[ROOT_FOR_A_MOMENT]
    assert (service["network_mode"], service["restart"], service["cap_add"]) == (
        "none",
        "no",
        ["CHOWN"],
    )
    assert "ports" not in service
    for name in ("collector", "jaeger"):
        assert services()[name]["depends_on"] == {
            ROOT_FOR_A_MOMENT: {"condition": "service_completed_successfully"}
        }
        assert cast("list[str]", service["command"])[0] == services()[name]["user"]
    assert set(cast("list[str]", service["command"])[1:]) == {
        mount["target"] for mount in mounts(service)
    }


def test_every_server_that_can_be_asked_is_asked_for_its_health() -> None:
    asked = {name for name, service in services().items() if "healthcheck" in service}
    assert asked == set(services()) - {"collector", ROOT_FOR_A_MOMENT}, (
        "the collector's image is made from scratch and can run no command"
    )


def test_the_variables_that_are_set_are_those_that_the_files_take() -> None:
    taken = {
        "collector": ROOT / "collector-config.yaml",
        "jaeger": ROOT / "deploy/jaeger/config.yaml",
        "grafana": ROOT / "deploy/grafana/provisioning/datasources/spanbus.yaml",
    }
    for name, file in taken.items():
        known = set(re.findall(r"\$\{env:(\w+)|\$\{?([A-Z]\w+)", file.read_text()))
        names = {one or other for one, other in known}
        for variable in cast("dict[str, str]", services()[name]["environment"]):
            assert variable in names or variable == "GOMEMLIMIT" or variable.startswith("GF_"), (
                f"{name}: {variable}"
            )


def test_services_find_each_other_by_the_names_they_have() -> None:
    ports = {
        "jaeger": {"4317", "16686"},
        "collector": {"8888"},
        "alertmanager": {"9093"},
        "prometheus": {"9090"},
    }
    files = [ROOT / "deploy/prometheus/prometheus.yml", ROOT / "docker-compose.yml"]
    found = {
        match
        for file in files
        for match in re.findall(
            r"\b(jaeger|collector|alertmanager|prometheus|grafana):(\d{4,5})\b", file.read_text()
        )
    }
    assert {name: {port for other, port in found if other == name} for name in ports} == ports


def test_who_is_told_of_alerts_may_be_a_program_on_this_machine() -> None:
    """The example in alertmanager.yml works from inside Compose."""
    example = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    [host] = re.findall(r"url: http://([\w.]+):8080/alerts", example)
    assert services()["alertmanager"]["extra_hosts"] == [f"{host}:host-gateway"]


def test_the_collector_brings_what_it_counted_to_a_prometheus_that_takes_it() -> None:
    environment = cast("dict[str, str]", services()["collector"]["environment"])
    assert environment["PROMETHEUS_OTLP"] == "http://prometheus:9090/api/v1/otlp"
    assert "--web.enable-otlp-receiver" in cast("list[str]", services()["prometheus"]["command"])


def test_the_settings_of_the_memory_limiter_fit_into_the_container() -> None:
    limiter = yaml.safe_load((ROOT / "collector-config.yaml").read_text())["processors"][
        "memory_limiter"
    ]
    collector = services()["collector"]
    limit = int(
        str(cast("dict[str, str]", collector["environment"])["GOMEMLIMIT"]).removesuffix("MiB")
    )
    assert limiter["limit_mib"] < limit < int(str(collector["mem_limit"]).removesuffix("m"))


# --- what is merged over it -------------------------------------------------------------------------------------------


class Merged(yaml.SafeLoader):
    """Knows the tags of Compose."""


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> list[object]:
    assert isinstance(node, yaml.SequenceNode)
    return cast("list[object]", loader.construct_sequence(node))


Merged.add_constructor("!override", _sequence)
OVERLAYS = sorted((ROOT / "deploy/overlays").glob("compose.*.yaml"))


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.name)
def test_an_overlay_changes_only_the_collector_and_loosens_nothing(file: Path) -> None:
    overlay = cast("dict[str, Services]", yaml.load(file.read_text(), Merged))
    assert set(overlay) == {"services"}
    assert set(overlay["services"]) == {"collector"}
    change = overlay["services"]["collector"]
    assert set(change) <= {"command", "environment", "ports", "volumes"}
    assert all(
        mount["type"] == "bind"
        and mount["read_only"] is True
        and mount["bind"] == {"create_host_path": False}
        for mount in mounts(change)
    )
    shipped = cast("list[str]", services()["collector"]["ports"])
    assert [
        str(port).replace("${SPANBUS_LISTEN:-127.0.0.1}", "127.0.0.1")
        for port in cast("list[str]", change.get("ports") or shipped)
    ] == shipped
    name = file.name.removeprefix("compose.")
    assert change["command"] == [
        *cast("list[str]", services()["collector"]["command"]),
        f"--config=/etc/otelcol/{name}",
        *(["--feature-gates=ottl.set.allowNil"] if name == "own-links.yaml" else []),
    ]
    assert {
        "source": f"./deploy/overlays/{name}",
        "target": f"/etc/otelcol/{name}",
    }.items() <= mounts(change)[0].items()


def test_the_rules_reach_every_overlay() -> None:
    assert [file.name for file in OVERLAYS] == [
        "compose.auth-tls.yaml",
        "compose.own-links.yaml",
        "compose.tail-sampling.yaml",
    ]
    assert {file.name.removeprefix("compose.") for file in OVERLAYS} == {
        file.name for file in (ROOT / "deploy/overlays").glob("*.yaml")
    } - {file.name for file in OVERLAYS}


def test_only_who_asks_for_tls_and_tokens_can_listen_to_others() -> None:
    for file in (ROOT / "docker-compose.yml", *OVERLAYS):
        assert ("SPANBUS_LISTEN" in file.read_text()) == (file.name == "compose.auth-tls.yaml")
