"""`spanbus exec` runs the command whatever is wrong with telemetry, with at most one line on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli

import spanbus
from spanbus.testing import Receiver


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """What is said of settings is the same however the command was started."""
    return Cli(tmp_path)


SAYS = ("exec", "--", "sh", "-c", "echo out; exit 3")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "1"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no equals"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma"),
        ("OTEL_TRACES_SAMPLER", "parentbased_jaeger_remote"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "abc"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1"),
        ("OTEL_PROPAGATORS", "nobody-has-it"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process,nobody-has-it"),
        ("OTEL_PYTHON_CONTEXT", "nobody-has-it"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nobody-has-it"),
        ("OTEL_PYTHON_METER_PROVIDER", "nobody-has-it"),
        ("OTEL_PYTHON_LOGGER_PROVIDER", "nobody-has-it"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "sometimes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("SPANBUS_STORE_DAYS", "0"),
        ("SPANBUS_NO_SUCH_SETTING", "x"),
    ],
)
def test_an_invalid_variable_is_one_line_and_the_default_is_used(
    cli: Cli, name: str, value: str
) -> None:
    done = cli(*SAYS, env={name: value})
    assert (done.code, done.out) == (3, "out\n")
    [line] = done.err.splitlines()
    assert line.startswith("spanbus: ") and name in line
    [run] = json.loads(cli("runs", "--json").out)
    assert (run["workflow"], run["result"]) == ("sh", "failure")


@pytest.mark.parametrize("value", ["false", "FALSE", " ", "False"])
def test_a_false_boolean_causes_no_message(cli: Cli, value: str) -> None:
    done = cli(*SAYS, env={"OTEL_SDK_DISABLED": value})
    assert (done.code, done.out, done.err) == (3, "out\n", "")


def test_with_the_sdk_disabled_nothing_is_kept_and_the_environment_is_unchanged(cli: Cli) -> None:
    was = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    done = cli(
        "exec",
        "--",
        "sh",
        "-c",
        "echo $TRACEPARENT; exit 4",
        env={"OTEL_SDK_DISABLED": "TRUE", "TRACEPARENT": was},
    )
    assert (done.code, done.out, done.err) == (4, was + "\n", "")
    assert not (cli.folder / "state").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[tool.spanbus]\nno_such_key = 1\n",
        "[tool.spanbus]\nexit_timeout_s = 'soon'\n",
        "[tool.spanbus\n",
        "[tool]\nspanbus = 7\n",
        "[tool.spanbus]\nworkflows = 3\n",
        "[tool.spanbus.workflows.w]\nphases = 'none'\n",
    ],
)
def test_a_broken_table_of_a_project_does_not_stop_the_command(cli: Cli, text: str) -> None:
    (cli.folder / "pyproject.toml").write_text(text)
    done = cli(*SAYS)
    assert (done.code, done.out) == (3, "out\n")
    assert len(done.err.splitlines()) <= 1


@pytest.mark.parametrize("options", [(), ("--keep-output",)], ids=["inherited", "kept"])
@pytest.mark.parametrize("state", ["file/state", "/proc/none/state", "n" * 300])
def test_a_state_directory_that_cannot_be_created_is_one_line(
    cli: Cli, state: str, options: tuple[str, ...]
) -> None:
    (cli.folder / "file").write_text("")
    env = {"SPANBUS_STATE_DIR": str(cli.folder / state)}
    done = cli("exec", *options, *SAYS[1:], env=env)
    assert (done.code, done.out) == (3, "out\n")
    [line] = done.err.splitlines()
    assert line.startswith("spanbus: the local store does not take telemetry")


@pytest.mark.parametrize("mask", ["777", "277"])
def test_our_files_open_whatever_the_command_leaves(cli: Cli, mask: str) -> None:
    kept = cli.argv("exec", "--keep-output", "--", "sh", "-c", "umask; exit 3")
    done = cli.run(["sh", "-c", f'umask {mask}; exec "$@"', "sh", *kept])
    assert (done.returncode, done.stdout, done.stderr) == (3, f"0{mask}\n", "")
    state = cli.folder / "state"
    made = [state, *state.rglob("*")]
    assert len(made) > 4
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600, 0o700}


def test_the_command_runs_without_a_home_folder(cli: Cli) -> None:
    """In many containers the user has no entry in the passwd file."""
    program = (
        "import os, sys\n"
        "sys.path.insert(0, os.environ.pop('SOURCES'))\n"
        "import pwd\n"
        "def none(*_): raise KeyError('no entry')\n"
        "pwd.getpwuid = pwd.getpwnam = none\n"
        "sys.argv = ['spanbus', 'exec', '--', 'sh', '-c', 'echo out; exit 3']\n"
        "from spanbus._cli import main\n"
        "main()\n"
    )
    env = {"PATH": os.environ["PATH"], "SOURCES": _sources()}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cli.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def _sources() -> str:
    return str(Path(spanbus.__file__).parents[1])


def test_the_command_runs_in_a_deleted_folder(cli: Cli) -> None:
    gone = cli.folder / "gone"
    gone.mkdir()
    done = cli.run(["sh", "-c", 'cd gone; rmdir ../gone; "$@"', "sh", *cli.argv(*SAYS)])
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_second_process_the_command_replaces_us(cli: Cli) -> None:
    """Root has no process limit, so the call is replaced by one that fails."""
    program = (
        "import errno, os, sys\n"
        "def fork(): raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "os.fork = fork\n"
        "sys.argv = ['spanbus', 'exec', '--', 'sh', '-c', 'echo out; exit 3']\n"
        "from spanbus._cli import main\n"
        "main()\n"
    )
    done = cli.run([sys.executable, "-c", program])
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1


WITHOUT_FORK = (
    "import os, sys\n"
    "del os.fork\n"
    "sys.argv = ['spanbus', *sys.argv[1:]]\n"
    "from spanbus._cli import main\n"
    "main()\n"
)


def test_without_fork_the_output_is_the_same_and_the_run_is_recorded(cli: Cli) -> None:
    script = 'test -n "$TRACEPARENT" && echo "out $GIVEN"; echo err >&2; exit 3'
    commands = (["sh", "-c", script], ["sh", "-c", "kill -9 $$"], ["./no-such-program"])
    for command, status in zip(commands, (3, 137, 127), strict=True):
        argv, env = ("exec", "--workflow", "one", "--", *command), {"GIVEN": "x"}
        done = cli(*argv, env=env)
        without = cli.run([sys.executable, "-c", WITHOUT_FORK, *argv], env=env)
        assert done.code == status
        assert without.returncode == status
        assert (without.stdout, without.stderr) == (done.out, done.err)
    runs = json.loads(cli("runs", "--json").out)
    assert [run["command"] for run in runs[::2]] == list(reversed(commands))
    for one, other in zip(runs[::2], runs[1::2], strict=True):
        for key in ("workflow", "result", "error_type", "error", "command", "exit_code"):
            assert one[key] == other[key], key


@pytest.mark.parametrize("descriptors", [5, 6, 8, 10])
def test_the_command_runs_with_few_descriptors(cli: Cli, descriptors: int) -> None:
    limited = f'ulimit -n {descriptors}; exec "$@"'
    done = cli.run(["sh", "-c", limited, "sh", *cli.argv(*SAYS)])
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("spanbus: ")] == []
    assert len(done.stderr.splitlines()) <= 1


NO_MORE_THREADS = (
    "import sys, threading\n"
    "left, start = int(sys.argv.pop(1)), threading.Thread.start\n"
    "def begin(thread):\n"
    "    global left\n"
    '    if not left: raise RuntimeError("can\'t start new thread")\n'
    "    left -= 1\n"
    "    start(thread)\n"
    "threading.Thread.start = begin\n"
    "from spanbus._cli import main\n"
    "main()\n"
)


@pytest.mark.parametrize("options", [(), ("--keep-output",)], ids=["inherited", "kept"])
@pytest.mark.parametrize("threads", range(7))
def test_the_command_runs_and_is_recorded_with_few_threads(
    cli: Cli, threads: int, options: tuple[str, ...]
) -> None:
    """Root has no thread limit, so the call is replaced by one that fails."""
    argv = [sys.executable, "-c", NO_MORE_THREADS, str(threads), "exec", *options, *SAYS[1:]]
    done = cli.run(argv)
    assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    cli("exec", "-w", "next", "--", "true")  # takes over what could not be stored
    runs = json.loads(cli("runs", "--json").out)
    assert [(run["workflow"], run["result"]) for run in runs] == [
        ("next", "success"),
        ("sh", "failure"),
    ]


def test_our_import_path_is_not_passed_to_the_command(cli: Cli) -> None:
    for name in ("typing", "json", "threading", "pathlib", "datetime", "sqlite3"):
        (cli.folder / f"{name}.py").write_text("raise RuntimeError(__file__)\n")
    path = {"PYTHONPATH": f".{os.pathsep}{cli.folder}{os.pathsep}{_sources()}"}
    ours = [sys.executable, "-P", "-c", "from spanbus._cli import main; main()", "exec", "--"]
    done = cli.run([*ours, "sh", "-c", "echo $PYTHONPATH; exit 3"], env=path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{path['PYTHONPATH']}\n", "")


def test_only_invalid_options_of_exec_are_usage_errors(cli: Cli) -> None:
    for words in (("--nmae", "x", "--", "true"), ("--name",), (), ("--",), ("--attr",)):
        done = cli("exec", *words)
        assert (done.code, done.out) == (2, ""), words
        assert "Usage: spanbus exec" in done.err
    missing = cli("exec", "--file", "nowhere.toml", "--", "sh", "-c", "echo ran")
    assert (missing.code, missing.out) == (2, "")
    assert "nowhere.toml" in missing.err


def test_the_exporter_none_sends_nothing_of_its_signal(cli: Cli) -> None:
    with Receiver() as receiver:
        busy = {"SPANBUS_EXIT_TIMEOUT_S": "20"}
        done = cli(*SAYS, env={**receiver.env, **busy, "OTEL_TRACES_EXPORTER": "none"})
        assert (done.code, done.out, done.err) == (3, "out\n", "")
        assert receiver.wait_until(lambda got: bool(got.metrics()))
        assert receiver.spans() == []
    assert cli("show").code == 0  # the local store is a setting of its own


def test_the_exporter_console_shows_spans_on_stderr_and_leaves_stdout_alone(cli: Cli) -> None:
    done = cli(*SAYS, env=CONSOLE)
    assert (done.code, done.out) == (3, "out\n")
    shown = [json.loads(line) for line in done.err.splitlines()]
    names = {
        span["name"]
        for request in shown
        for resource in request["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    }
    assert names == {"RUN sh", "sh"}


def test_given_attributes_are_on_the_resource(cli: Cli) -> None:
    done = cli("exec", "--attr", "team=red", "--attr=deployment.id=7", *SAYS[1:], env=CONSOLE)
    assert (done.code, done.out) == (3, "out\n")
    [request, *_] = [json.loads(line) for line in done.err.splitlines()]
    [resource, *_] = request["resourceSpans"]
    found = {
        pair["key"]: pair["value"].get("stringValue") for pair in resource["resource"]["attributes"]
    }
    assert (found["team"], found["deployment.id"]) == ("red", "7")
    wrong = cli("exec", "--attr", "nothing", "--", "sh", "-c", "echo ran")
    assert (wrong.code, wrong.out) == (2, "")
    assert "--attr 'nothing'" in wrong.err


CONSOLE = {"OTEL_TRACES_EXPORTER": "console", "SPANBUS_EXIT_TIMEOUT_S": "20"}


def test_with_a_file_size_limit_one_line_reports_the_loss(cli: Cli) -> None:
    limited = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh"]
    done = cli.run([*limited, *cli.argv("exec", "--", "echo", "ran")])
    assert (done.returncode, done.stdout) == (0, "ran\n")
    [line] = done.stderr.splitlines()
    assert "only in memory are lost" in line
