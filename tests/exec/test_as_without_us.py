"""Shell lines give the same output with ``spanbus exec --`` before each command, byte for byte."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import Cli

LINES = {
    "pipeline": 'printf \'b\\na\\n\' | "$@" sort | "$@" head -1',
    "job control in a shell": '"$@" bash -mc "sleep 0.1 & wait; sleep 0.1 & jobs; wait; fg; echo done"',
    "no terminal to ask": '"$@" sh -c "read x </dev/tty"; echo $?; "$@" tty',
    "a program that replaces itself": '"$@" sh -c "exec sh -c \'exec printf x\'"',
    "closes its streams": '"$@" sh -c "exec <&- >&- 2>&-; exit 4"; echo $?',
    "descriptors": 'exec 9</dev/null 11>/dev/null; "$@" ls /proc/self/fd',
    "binary": '"$@" head -c 300000 /bin/sh',
    "both streams": '"$@" sh -c "head -c 300000 /dev/zero >&2; echo out"',
    "limits": 'ulimit -n 64; ulimit -s 700; ulimit -c 0; umask 077; "$@" sh -c "ulimit -n; ulimit -s; ulimit -c; umask"',
    "without PATH, HOME or anything": 'env -i PATH=/bin:/usr/bin SPANBUS_STATE_DIR="$SPANBUS_STATE_DIR" PYTHONPATH="$PYTHONPATH" "$@" env -u TRACEPARENT env -u SPANBUS_STATE_DIR env -u PYTHONPATH env',
    "names that no shell knows": 'env "A B=c" "é=1" "X.Y=2" "$@" sh -c "env | grep -aE \'^(A B|é|X.Y)=\'"',
    "bytes that are no text": "export X=$'\\xff\\xe9'; \"$@\" printenv X; \"$@\" printf '%s' $'\\xff\\xfe'",
    "a folder that is gone": 'mkdir gone; cd gone; rmdir ../gone; "$@" sh -c "echo x"',
    "a session of its own": 'setsid -w "$@" sh -c "exit 7"; echo $?; "$@" setsid -w sh -c "exit 9"; echo $?',
    "find": 'mkdir f; touch f/1 "f/a b"; find f -type f -exec "$@" ls {} +; find f -type f -exec "$@" false ";"; echo $?',
    "a git hook": (
        "git init -q g; cd g; git config user.email a@b; git config user.name a; "
        "{ echo '#!/bin/sh'; printf \"'%s' \" \"$@\" sh -c 'echo hook; cat; exit 0'; } >.git/hooks/pre-commit; "
        "chmod +x .git/hooks/pre-commit; git commit -q --allow-empty -m x 2>&1; echo $?"
    ),
    "the rest of stdin": 'printf "1\\n2\\n3\\n" >in; { "$@" sh -c "read x; echo first $x"; cat; } <in',
    "appending": 'echo 1 >>app; "$@" sh -c "echo 2" >>app; cat app',
    "time limits": 'timeout 0.5 "$@" sleep 60; echo $?; "$@" timeout 0.5 sleep 60; echo $?',
    "statuses": 'for c in 1 126 127 128 130 255; do "$@" sh -c "exit $c"; echo $?; done',
    "background": '"$@" sh -c "sleep 0.2; exit 5" & wait $!; echo $?',
}


@pytest.mark.parametrize("options", [(), ("--keep-output",)], ids=["inherited", "kept"])
@pytest.mark.parametrize("line", LINES)
def test_a_command_line_behaves_as_without_spanbus_exec(
    cli: Cli, line: str, options: tuple[str, ...]
) -> None:
    def run(*before: str) -> tuple[int, bytes, bytes]:
        folder = cli.folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        done = subprocess.run(
            ["bash", "-c", LINES[line], "bash", *before],
            cwd=folder,
            env={**cli.environment(), "PYTHONPATH": _sources()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
            start_new_session=True,
        )
        return done.returncode, done.stdout, done.stderr

    assert run(*cli.argv("exec", *options, "--")) == run()


def _sources() -> str:
    import spanbus

    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(spanbus.__file__).parents[1]), *([given] if given else [])])
