"""docs/stack.md says what is shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "stack.md").read_text()


def test_its_versions_are_those_that_are_built_and_started() -> None:
    lines = (ROOT / "tools" / "versions.env").read_text().splitlines()
    versions = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    rows = {
        row[0].split()[0]: row[1:]
        for row in re.findall(
            r"^\| ([A-Z]\w+(?: \(contrib\))?) \| (v?[\d.]+) \| (v[\d.]+|–)", PAGE, re.MULTILINE
        )
    }
    assert set(rows) == {"Collector", "Jaeger", "Prometheus", "Alertmanager", "Grafana"}
    for part, (image, module) in rows.items():
        assert image == versions[f"{part.upper()}_IMAGE_VERSION"]
        assert module == versions.get(f"{part.upper()}_MODULE_VERSION", "–")


def test_it_names_every_alert_and_every_configuration() -> None:
    groups = cast(
        "dict[str, list[dict[str, list[dict[str, str]]]]]",
        yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()),
    )["groups"]
    alerts = {  # of those that people are told of
        rule["alert"] for group in groups for rule in group["rules"] if "annotations" in rule
    }
    assert (
        set(re.findall(r"^\| (\w+) \| .* \[page\]\(runbooks/\1\.md\) \|$", PAGE, re.MULTILINE))
        == alerts
    )
    for path in [
        *(ROOT / "deploy" / "growth").iterdir(),
        *(ROOT / "deploy" / "overlays").glob("[!c]*.yaml"),
    ]:
        assert str(path.relative_to(ROOT)) in PAGE, path
