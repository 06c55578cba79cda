"""Output for CI systems: collapsible groups, annotations and a job summary.

GitHub Actions (also Gitea and Forgejo): workflow commands on standard output, Markdown in ``GITHUB_STEP_SUMMARY``. GitLab:
collapsible sections. Buildkite: groups. Other systems get no additional output.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from spanbus._delivery import ephemeral

if TYPE_CHECKING:
    from spanbus._runtime import Runtime

Kind = Literal["github", "gitlab", "buildkite", "plain"]

_ANNOTATION_CHARS = 4_096
_SUMMARY_BYTES = 1_000_000
"""GitHub refuses a step's summary of more than 1 MiB."""


def is_ephemeral(env: Mapping[str, str] | None = None) -> bool:
    """Whether this is a CI job, whose disk is deleted after the job."""
    return ephemeral.is_ephemeral(os.environ if env is None else env)


def delivery_summary(runtime: Runtime) -> str:
    """Return the last line of a job: whether the telemetry of a closed runtime was delivered."""
    settings = runtime.settings
    if settings.sdk_disabled:
        return "telemetry is off (OTEL_SDK_DISABLED)"
    found = runtime.statistics()
    if not settings.endpoint_configured:
        return (
            f"telemetry stays in {settings.state_dir}; set OTEL_EXPORTER_OTLP_ENDPOINT to send it"
        )
    from spanbus._delivery.spool_status import status

    there = status(settings.state_dir)
    waits = any(
        count for (destination, _), count in there.waiting.items() if destination == "remote"
    )
    waiting = there.records if waits else 0
    if not waiting:
        return "flushed"
    what = "record waits" if waiting == 1 else "records wait"
    why = f" ({found.outage})" if found is not None and found.outage else ""
    return f"{waiting} {what}: spanbus flush --wait 10{why}"


def detect(env: Mapping[str, str] | None = None) -> Ci | None:
    """Return the CI system by its environment variables, or None."""
    env = os.environ if env is None else env
    if env.get("GITHUB_ACTIONS") == "true":
        return Ci("github", env.get("GITHUB_STEP_SUMMARY") or None)
    if env.get("GITLAB_CI") == "true":
        return Ci("gitlab")
    if env.get("BUILDKITE") == "true":
        return Ci("buildkite")
    return Ci("plain") if is_ephemeral(env) else None


class Ci:
    """Output commands of one CI system. Each method returns the text to print, empty if the system has no such command."""

    def __init__(self, kind: Kind, summary_file: str | None = None) -> None:
        self.kind: Kind = kind
        self._summary_file = summary_file

    @property
    def groups(self) -> bool:
        """Whether output can be grouped, for which the output of a phase must be contiguous."""
        return self.kind != "plain"

    def start(self, name: str, title: str) -> str:
        """Open a group."""
        if self.kind == "github":
            return f"::group::{_one_line(title)}"
        if self.kind == "gitlab":
            opened = f"section_start:{int(time.time())}:{_section(name)}[collapsed=true]"
            return f"\x1b[0K{opened}\r\x1b[0K{_one_line(title)}"
        return f"--- {_one_line(title)}" if self.kind == "buildkite" else ""

    def end(self, name: str, *, failed: bool) -> str:
        """Close a group. Buildkite expands it if the phase failed."""
        if self.kind == "github":
            return "::endgroup::"
        if self.kind == "gitlab":
            return f"\x1b[0Ksection_end:{int(time.time())}:{_section(name)}\r\x1b[0K"
        return "^^^ +++" if self.kind == "buildkite" and failed else ""

    def quoted(self, text: str) -> str:
        """Quote text so that workflow commands in it are not executed again."""
        if self.kind != "github":
            return text
        token = secrets.token_hex(16)
        return f"::stop-commands::{token}\n{text.rstrip()}\n::{token}::\n"

    def error(self, title: str, message: str, tail: str) -> str:
        """Return an annotation of a failure with the end of its output."""
        if self.kind != "github":
            return ""
        text = f"{message}\n{tail}".strip() or title
        return f"::error title={_property(title)}::{_data(text[-_ANNOTATION_CHARS:])}"

    def add_summary(self, markdown: str) -> None:
        """Append to the job summary, if there is one and its size limit allows."""
        if self._summary_file is None:
            return
        data = markdown.encode("utf-8", "replace")
        with suppress(OSError):
            size = os.path.getsize(self._summary_file) if os.path.exists(self._summary_file) else 0
            if size + len(data) <= _SUMMARY_BYTES:
                with open(self._summary_file, "ab") as file:
                    file.write(data + b"\n")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _section(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_.-]", "_", name) or "phase"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
