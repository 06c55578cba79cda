"""Re-export of :mod:`spanbus._sanitize` for texts of runs."""

from __future__ import annotations

from spanbus._sanitize import block as block
from spanbus._sanitize import one_line as one_line
