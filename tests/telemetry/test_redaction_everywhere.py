"""The corpus of secrets through the whole pipeline: none is in the sent bytes, the spool, the local store or the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from secrets_corpus import NAMED, SHAPED

from spanbus.testing import Receiver

PROGRAM = """
import logging
import sys

import anyio
import spanbus
from secrets_corpus import NAMED, SHAPED
from spanbus._workflow.definition import Command, Phase

logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
TEXTS = [*SHAPED.values(), *(named.around.replace("%s", named.secret) for named in NAMED)][int(sys.argv[1])::int(sys.argv[2])]

def raises(text):
    def action():
        raise RuntimeError(text)
    return action

async def tells(context, step_id, event_bus):
    for text in TEXTS:
        await event_bus.publish(
            "conveyor.moved", {"message": text, "error": ValueError(text), "result": {"message": {"status": text}, "status": text}, "command": ["x", text], "env": {"X": text}}, source="x",
            run_id=context.run_id, phase=step_id,
        )

phases = [Phase(f"raises {number}", raises(text)) for number, text in enumerate(TEXTS)]
phases.append(Phase("tells", tells))
prints = "import sys; print(sys.stdin.read() if False else sys.argv[1]); sys.exit(3)"
phases.append(Phase("prints", "command", command=Command((sys.executable, "-c", prints, "\\n".join(TEXTS[-12:])))))
phases.append(Phase("arguments", "command", command=Command(("true", *(part for text in TEXTS[20:35] for part in ("--token", text))))))

async def main():
    async with spanbus.open_runtime() as runtime:
        result = await runtime.run(spanbus.Workflow("w", tuple(phases)))
        assert result.result == "failure"

anyio.run(main)
"""


def needles() -> Iterator[str]:
    """Return the part of each secret that is searched for: its first long line, plain and JSON-escaped."""
    for secret in (*SHAPED.values(), *(named.secret for named in NAMED)):
        lines = [line for line in secret.splitlines() if "PRIVATE KEY" not in line]
        yield max(lines, key=len)
        yield json.dumps(max(lines, key=len))[1:-1]


def assert_clean(where: str, data: bytes) -> None:
    for needle in needles():
        assert needle.encode() not in data, f"{needle!r} is in {where}"


@pytest.mark.parametrize(
    "of", [3, pytest.param(1, marks=pytest.mark.slow)], ids=["a third", "all of the corpus"]
)
@pytest.mark.parametrize(
    ("delivery", "listening", "third"),
    [("spool", True, 0), ("spool", False, 1), ("sdk", True, 2)],
    ids=["delivered", "kept in the spool", "delivered by the SDK"],
)
def test_no_secret_of_the_corpus_is_sent_stored_or_logged(
    tmp_path: Path, delivery: str, listening: bool, third: int, of: int
) -> None:
    part, count = third % of, (len(SHAPED) + len(NAMED)) // of
    state = tmp_path / "state"
    with Receiver(listening=listening) as receiver:
        env = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("OTEL_", "SPANBUS_"))
            },
            "PYTHONPATH": os.pathsep.join(sys.path),
            "SPANBUS_STATE_DIR": str(state),
            "SPANBUS_EVENTS": "both",
            "SPANBUS_LOCAL": "on",
            "SPANBUS_DELIVERY": delivery,
            "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup",
            "SPANBUS_EXIT_TIMEOUT_S": "10" if listening else "0.25",
            **receiver.env,
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(part), str(of)],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        if listening:
            assert len(receiver.spans()) > count
            assert len(receiver.logs()) > count
        for request in receiver.requests:
            assert_clean(f"the bytes sent to {request.path}", request.body)
    files = [path for path in state.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) > 100_000 // of
    for path in files:
        assert_clean(str(path), path.read_bytes())
    assert_clean("the log", done.stdout)
    assert_clean("standard error", done.stderr)
