"""Arguments, descriptors, streams and exit status of a command are the same as without `spanbus exec`."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Cli


def run(
    cli: Cli, script: str, *, shell: str = "bash", **more: object
) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which ``$@`` is the `spanbus exec` command line."""
    argv = [shell, "-c", script, shell, *cli.argv("exec", "--")]
    return subprocess.run(
        argv,
        cwd=cli.folder,
        env=cli.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **more,  # type: ignore[call-overload]
    )


# --- descriptors ------------------------------------------------------------------------------------------------------


def test_process_substitution_is_passed_on(cli: Cli) -> None:
    assert run(cli, '"$@" cat <(echo hi)').stdout == "hi\n"


def test_descriptors_beyond_the_standard_ones_are_passed_on(cli: Cli) -> None:
    done = run(cli, "exec 9>f; \"$@\" sh -c 'echo x >&9'; cat f")
    assert (done.stdout, done.returncode) == ("x\n", 0)


def test_none_of_our_descriptors_is_passed_on(cli: Cli) -> None:
    direct = run(cli, "ls /proc/self/fd", shell="sh").stdout.split()
    ours = run(cli, '"$@" ls /proc/self/fd', shell="sh").stdout.split()
    assert ours == direct


def test_the_jobserver_of_make_is_passed_on(cli: Cli) -> None:
    quoted = " ".join(f"'{word}'" for word in cli.argv("exec", "--"))
    (cli.folder / "Makefile").write_text(
        f"all:\n\t+@{quoted} $(MAKE) inner\ninner:\n\t@echo inner $(MAKEFLAGS)\n"
    )
    done = cli.run(["make", "-j4", "-s"])
    assert done.returncode == 0, done.stderr
    assert "jobserver unavailable" not in done.stderr
    assert "-j" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_stay_closed_for_the_command(cli: Cli, closed: str) -> None:
    (cli.folder / "seen.py").write_text(
        "import os\n"
        "there = [n for n in range(3) if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "open('seen', 'a').write(f'{there}\\n')\n"
        "raise SystemExit(3)\n"
    )
    done = run(cli, f'"$@" {sys.executable} seen.py {closed}; echo $?')
    assert done.stdout == "3\n", done.stderr
    direct = ["bash", "-c", f"{sys.executable} seen.py {closed}"]
    subprocess.run(direct, cwd=cli.folder, check=False, timeout=60)
    ours, theirs = (cli.folder / "seen").read_text().splitlines()
    assert ours == theirs
    assert "Traceback" not in done.stderr
    assert cli("runs", "--json").json()  # type: ignore[truthy-bool] - and it was recorded


def test_a_full_disk_behind_the_streams_reaches_the_command(cli: Cli) -> None:
    done = run(cli, "\"$@\" sh -c 'echo x; exit 5' >/dev/full 2>/dev/full; echo $?")
    assert done.stdout == "5\n"


def test_nonblocking_streams_stay_nonblocking_and_lose_nothing(cli: Cli) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    program = "import os; print(os.get_blocking(1))"
    done = subprocess.run(
        cli.argv("exec", "--", sys.executable, "-c", program),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=writing,
        timeout=60,
        check=False,
    )
    assert (done.returncode, os.read(reading, 100)) == (0, b"False\n")
    os.close(reading)
    os.close(writing)


def test_a_closed_pipe_ends_the_command_as_without_exec(cli: Cli) -> None:
    done = run(cli, 'set -o pipefail; "$@" yes | head -1; echo "${PIPESTATUS[0]}"')
    assert done.stdout == "y\n141\n"


def test_a_slow_reader_gets_every_byte(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.argv("exec", "--", sys.executable, "-c", "print('é' * 500_000)"),
        cwd=cli.folder,
        env=cli.environment({"PYTHONIOENCODING": "utf-8"}),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    got = b"".join(iter(lambda: process.stdout.read(4093) if process.stdout else b"", b""))
    assert process.wait(60) == 0
    process.stdout.close()
    assert got.decode() == "é" * 500_000 + "\n"


def test_stdin_reaches_the_command(cli: Cli) -> None:
    assert cli("exec", "--", "cat", stdin="through\n").out == "through\n"


def test_a_daemon_that_holds_our_streams_is_not_waited_for(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.argv("exec", "--", "sh", "-c", "sleep 600 & echo $!"),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    daemon = int(process.stdout.readline())
    assert process.wait(60) == 0
    os.kill(daemon, 0)  # it lives, as it would without us
    os.kill(daemon, signal.SIGKILL)
    process.stdout.close()


# --- arguments and status ---------------------------------------------------------------------------------------------


def test_arguments_are_passed_unchanged(cli: Cli) -> None:
    odd = [b"", b"a b", b"new\nline", b"\xff\xfe", b"-x", b"--", b"--help", "ü€".encode()]
    program = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    argv = [*map(os.fsencode, cli.argv("exec", "--", sys.executable, "-c", program)), *odd]
    done = subprocess.run(
        argv, cwd=cli.folder, env=cli.environment(), capture_output=True, timeout=60, check=False
    )
    assert done.stdout.split(b"\0") == odd, done.stderr


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
        ("ulimit -c unlimited; kill -SEGV $$", 139),
        ("ulimit -c 0; kill -ABRT $$", 134),
        ("kill -PIPE $$", 141),
    ],
)
def test_the_exit_status_is_that_of_a_shell(cli: Cli, script: str, status: int) -> None:
    assert cli("exec", "--", "sh", "-c", script).code == status


def test_missing_and_unexecutable_commands_are_127_and_126(cli: Cli) -> None:
    missing = cli("exec", "--", "no-such-command-at-all")
    assert (missing.code, missing.err) == (
        127,
        "spanbus: no-such-command-at-all: command not found\n",
    )
    (cli.folder / "plain").write_text("echo no")
    assert cli("exec", "--", "./plain").code == 126
    assert cli("exec", "--", "./nowhere/plain").code == 127
    assert cli("exec", "--", "./plain/beneath").code == 127
    assert cli("exec", "--", "/").code == 126
    assert cli("exec", "--", "").code == 127
    [run, *_] = cli("runs", "--json").json()  # type: ignore[misc]
    assert run["result"] == "failure"  # type: ignore[index]


def test_a_script_without_an_interpreter_is_run_by_sh(cli: Cli) -> None:
    script = cli.folder / "script"
    script.write_text('echo "ran $0 $1"; exit 6\n')
    script.chmod(0o755)
    done = cli("exec", "--", "./script", "a b")
    assert (done.code, done.out) == (6, "ran ./script a b\n")
    bin_folder = cli.folder / "bin"
    bin_folder.mkdir()
    script.rename(bin_folder / "found-by-path")
    path = f"{bin_folder}:{os.environ['PATH']}"
    assert cli("exec", "--", "found-by-path", "x", env={"PATH": path}).code == 6
    broken = cli.folder / "broken"
    broken.write_bytes(b"\x7fELF\0\0\0garbage")
    broken.chmod(0o755)
    assert cli("exec", "--", "./broken").code == 126


def test_cwd_umask_priority_and_limits_are_kept(cli: Cli) -> None:
    script = "umask 027; ulimit -n 99; \"$@\" sh -c 'pwd; umask; ulimit -n; nice'"
    done = run(
        cli,
        f"nice -n 3 sh -c '{script.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' sh \"$@\"",
        shell="sh",
    )
    kept = [str(cli.folder.resolve()), "0027", "99", str(min(19, os.nice(0) + 3))]
    assert done.stdout.split() == kept, done.stderr


def test_a_signal_that_kills_us_kills_the_command(cli: Cli) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the parent-death signal is Linux's")
    process = subprocess.Popen(
        cli.argv("exec", "--", "sh", "-c", "echo $$; exec sleep 60"),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    command = int(process.stdout.readline())
    process.kill()
    process.wait(60)
    end = time.monotonic() + 30
    while alive(command):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.stdout.close()


@pytest.mark.parametrize("options", [(), ("--keep-output",)], ids=["inherited", "kept"])
@pytest.mark.parametrize("whom", ["us", "our group", "all of our name"])
def test_a_signal_that_kills_us_kills_children_of_the_command(
    cli: Cli, whom: str, options: tuple[str, ...]
) -> None:
    """``timeout -s KILL`` and CI runners end a whole group, of which the command and its children are without us; ``killall``
    ends all that have our name.
    """
    if whom == "all of our name" and not sys.platform.startswith("linux"):
        pytest.skip("names are given on Linux")
    process = subprocess.Popen(
        cli.argv("exec", *options, "--", "sh", "-c", "sleep 600 & echo $! $$; wait"),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    members = [int(word) for word in process.stdout.readline().split()]
    if whom == "all of our name":
        name = _name_of(process.pid)
        for each in _of_session(process.pid):
            if _name_of(each) == name:
                os.kill(each, signal.SIGKILL)
    else:
        (os.kill if whom == "us" else os.killpg)(process.pid, signal.SIGKILL)
    assert process.communicate(timeout=60)[0] == ""  # nobody holds it any more
    end = time.monotonic() + 30
    while any(map(alive, members)):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_daemon_of_the_command_outlives_us_and_no_process_of_ours_stays(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.argv("exec", "--", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"),
        cwd=cli.folder,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, _ = process.communicate(timeout=60)
    daemon = int(out)
    assert process.returncode == 0 and alive(daemon)
    of_session = _of_session(process.pid)
    os.kill(daemon, signal.SIGKILL)
    assert of_session == [daemon]


def _of_session(session: int) -> list[int]:
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [pid for pid in found if _session_of(pid) == session]


def _name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def test_our_files_never_get_the_descriptors_of_standard_streams(cli: Cli) -> None:
    """A file that gets the descriptor of a closed stderr would receive every message written there."""
    done = run(cli, "\"$@\" sh -c 'exit 0' 2>&- >&-; echo $?")
    assert done.stdout == "0\n"
    store = cli.folder / "state" / "store.sqlite3"
    assert stat.S_ISREG(store.stat().st_mode)
    assert store.read_bytes()[:15] == b"SQLite format 3"


@pytest.mark.slow
def test_the_exit_limit_starts_after_the_imports(cli: Cli) -> None:
    """Otherwise the record of a very short command would not be sent on a busy machine."""
    (cli.folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "class Gate:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        while name == 'urllib3' and not os.path.exists('gate'):\n"
        "            time.sleep(0.05)\n"
        "sys.meta_path.insert(0, Gate())\n"
    )
    paths = (str(cli.folder), os.environ.get("PYTHONPATH", ""))
    env = {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "SPANBUS_EXIT_TIMEOUT_S": "0.1",
    }
    process = cli.start("exec", "--", "true", env=env)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(3)
    (cli.folder / "gate").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "records wait" in said
