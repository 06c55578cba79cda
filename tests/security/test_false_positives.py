"""False positives of redaction in texts without secrets: the project's own sources, documents and test names."""

from __future__ import annotations

import re
from pathlib import Path

from spanbus._telemetry.redaction import REDACTED, Redactor

ROOT = Path(__file__).parents[2]
redactor = Redactor()


def taken(lines: list[str]) -> list[str]:
    return [
        line for line in lines if REDACTED not in line and REDACTED in redactor.text(line, 4_096)
    ]


def test_redaction_leaves_documents_and_sources_almost_unchanged() -> None:
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py"), ROOT / "README.md"]
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    found = taken(lines)
    assert len(found) < len(lines) * 0.004, "\n".join(found)


def test_redaction_leaves_the_lines_of_a_test_run_unchanged() -> None:
    lines = [
        f"{file.relative_to(ROOT)}::{name} {result} [ {at % 100:2d}%]"
        for file in (ROOT / "tests").rglob("test_*.py")
        for at, name in enumerate(re.findall(r"def (test_\w+)", file.read_text("utf-8")))
        for result in ("PASSED", "FAILED")
    ]
    assert len(lines) > 2_000
    assert taken(lines) == []
