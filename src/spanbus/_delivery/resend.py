"""Resending of dead letters: requests that a destination refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from spanbus._delivery.dead_letters import REFUSED, SUFFIX
from spanbus._delivery.destinations import OtlpDestination
from spanbus._delivery.outcomes import Delivered
from spanbus._delivery.regular_files import read_regular
from spanbus._delivery.spool_files import APART
from spanbus._named_tuple import NamedTuple
from spanbus._otlp.signals import Signal


class Resent(NamedTuple):
    """Number of delivered requests, of records rejected in them, and of dead letters left, with the reason."""

    delivered: int
    rejected: int
    left: int
    reason: str | None


def set_aside(state_dir: Path) -> list[Path]:
    """Files of all dead letters, oldest first."""
    folders = (state_dir / REFUSED, *(apart / REFUSED for apart in state_dir.glob(f"{APART}*")))
    found = [path for folder in folders for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    return sorted(found, key=lambda path: path.name)


def resend(state_dir: Path, env: Mapping[str, str], timeout_s: float) -> Resent:
    """Send dead letters to the endpoints of ``env`` and delete the delivered ones; stop at the first without an answer."""
    deadline = time.monotonic() + timeout_s
    destination = OtlpDestination(env)
    delivered = rejected = 0
    reason: str | None = None
    try:
        for path in set_aside(state_dir):
            signal = _signal_of(path)
            left_s = deadline - time.monotonic()
            if signal is None:
                continue
            if left_s <= 0:
                reason = reason or "no more time"
                break
            try:
                body = read_regular(path)
            except OSError:  # another process has sent it
                continue
            outcome = destination.send_body(signal, body, left_s)
            if isinstance(outcome, Delivered):
                delivered += 1
                rejected += outcome.rejected
                with suppress(FileNotFoundError):
                    path.unlink()
                continue
            reason = outcome.reason
            if not getattr(outcome, "body", b""):
                break
    finally:
        destination.close()
    return Resent(delivered, rejected, len(set_aside(state_dir)), reason)


def _signal_of(path: Path) -> Signal | None:
    try:
        return Signal(path.name.removesuffix(SUFFIX).rpartition(".")[2])
    except ValueError:
        return None
