"""`spanbus runs` is complete also if programs could not store their runs and another program is doing so."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from command_line import Cli


def test_runs_waits_for_a_program_that_adopts_leftovers(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    for _ in range(3):
        assert cli("exec", "--", "true", env={"SPANBUS_EXIT_TIMEOUT_S": "0"}).code == 0
    lock = os.open(tmp_path / "state" / "spool" / "adopt.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    listing = cli.start("runs", "--json")
    while len(list(Path(f"/proc/{listing.pid}/task").iterdir())) < 2:  # it looks around by now
        time.sleep(0.01)
    os.close(lock)
    output, errors = listing.communicate(timeout=60)
    assert (len(json.loads(output)), errors) == (3, "")
