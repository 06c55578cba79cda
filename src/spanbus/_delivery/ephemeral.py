"""Detection of CI jobs, whose disks are deleted at their end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

VARIABLES: Final = (
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "BUILDKITE",
    "CIRCLECI",
    "TF_BUILD",
    "JENKINS_URL",
)


def is_ephemeral(env: Mapping[str, str]) -> bool:
    """Whether this is the job of a CI system."""
    return any(env.get(name, "").strip().lower() not in ("", "false", "0") for name in VARIABLES)
