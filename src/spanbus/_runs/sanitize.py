"""Sanitized texts of runs, by the rules that hold everywhere."""

from __future__ import annotations

from spanbus._sanitize import block as block
from spanbus._sanitize import one_line as one_line
