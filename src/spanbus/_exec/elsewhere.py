"""``spanbus exec`` on systems without ``fork``, by ``subprocess``."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from spanbus._exec.arguments import Arguments
from spanbus._exec.attend import Ended
from spanbus._exec.launch import Child, reason_text, status_of
from spanbus._exec.recording import Recording
from spanbus._exec.say import say
from spanbus._exec.trace import Trace


def execute(arguments: Arguments, trace: Trace | None) -> int:
    """Run and record the command; return its exit status."""
    env = dict(os.environ)
    for name, value in (trace.changes if trace is not None else {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    if arguments.keep_output:
        say("the output of this command is not kept: it cannot be on this system")
    child = Child(time.time_ns(), time.perf_counter_ns())
    recording = Recording(arguments, trace, child) if trace is not None else None
    ended: Ended | None = None
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends it to the command as well
    try:
        process = subprocess.Popen(arguments.argv, env=env, close_fds=False)
    except OSError as error:
        child.error = error
        say(f"{arguments.argv[0]}: {reason_text(error)}")
    else:
        ended = Ended(process.wait(), time.perf_counter_ns() - child.started_ns, time.time_ns())
    if recording is not None:
        recording.end(ended)
    return ended.status if ended is not None else status_of(child.error or OSError())
