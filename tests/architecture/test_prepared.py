"""A child of the prepared process ends as the same program ends that starts alone: much of the suite rests on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prepared
import pytest

PROGRAMS = {
    "ends": "print('end')",
    "leaves with a number": "import sys; print('out'); sys.exit(7)",
    "leaves with nothing": "import sys; sys.exit(None)",
    "leaves with a message": "import sys; sys.exit('what was wrong')",
    "raises": "1 / 0",
    "is interrupted": "raise KeyboardInterrupt",
    "is cut off": "import os; os._exit(3)",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "does something at its exit": "import atexit; atexit.register(print, 'last'); print('first')",
    "waits for its thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "reads arguments and input": "import sys; print(sys.argv[1:], sys.stdin.read())",
    "leaves a child": "import os; pid = os.fork(); print('child' if pid == 0 else os.waitpid(pid, 0)[1])",
    "closes its output": "import sys; sys.stdout.close()",
}


@pytest.mark.skipif(not prepared.AVAILABLE, reason="needs a process that can be forked")
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_ends_as_it_does_alone(tmp_path: Path, what: str) -> None:
    code = PROGRAMS[what]
    alone = subprocess.run(
        [sys.executable, "-c", code, "a", "b"],
        cwd=tmp_path,
        input="given",
        capture_output=True,
        text=True,
        check=False,
    )
    forked = prepared.run(
        ["a", "b"], folder=tmp_path, env=os.environ, stdin="given", timeout_s=60, code=code
    )
    assert (forked.returncode, forked.stdout) == (alone.returncode, alone.stdout)
    assert forked.stderr.splitlines()[-1:] == alone.stderr.splitlines()[-1:]
