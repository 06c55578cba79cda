"""``spanbus exec`` on systems without ``fork``, by ``subprocess``."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from spanbus._exec.arguments import Arguments
from spanbus._exec.launch import Child, reason_of, status_of
from spanbus._exec.recording import Recording
from spanbus._exec.stderr import print_line
from spanbus._exec.supervise import CommandExit
from spanbus._exec.trace import Trace


def execute(arguments: Arguments, trace: Trace | None) -> int:
    """Run the command, record it, and return its exit status."""
    env = dict(os.environ)
    for name, value in (trace.changes if trace is not None else {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    if arguments.keep_output:
        print_line("the output of this command is not kept: it cannot be on this system")
    child = Child(time.time_ns(), time.perf_counter_ns())
    recording = Recording(arguments, trace, child) if trace is not None else None
    ended: CommandExit | None = None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends it to the command directly
    try:
        process = subprocess.Popen(arguments.argv, env=env, close_fds=False)
    except OSError as error:
        child.error = error
        print_line(f"{arguments.argv[0]}: {reason_of(error)}")
    else:
        ended = CommandExit(
            process.wait(), time.perf_counter_ns() - child.started_ns, time.time_ns()
        )
    if recording is not None:
        recording.end(ended)
    return ended.status if ended is not None else status_of(child.error or OSError())
