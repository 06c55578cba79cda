"""A ``store.sqlite3`` that is a link, a pipe or another program's database is not written, and does not block any command."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Cli

from spanbus._delivery.regular_files import open_own
from spanbus._store.opening import APPLICATION_ID
from spanbus._store.store import Store
from spanbus.errors import StoreError

COMMANDS = [
    ["status"],
    ["runs"],
    ["show", "last"],
    ["diff", "last", "last"],
    ["report", "last"],
    ["up", "--port", "0"],
    ["doctor", "--timeout", "0.2"],
]


def other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE moz_places (url TEXT)")
        connection.execute("PRAGMA user_version = 77")
    connection.close()


def marked(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 252006674")
        connection.execute("CREATE TABLE spans (x)")
    connection.close()


def endless(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE spans")
        connection.execute(
            "CREATE VIEW spans AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n"
        )
    connection.close()


def with_trigger(path: Path) -> None:
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON spans BEGIN DELETE FROM spans; END")
    connection.close()


def linked(path: Path) -> None:
    target = path.with_name("elsewhere.sqlite3")
    Store.open(target).close()
    path.symlink_to(target)


def linked_log(path: Path) -> None:
    Store.open(path).close()
    path.with_name(path.name + "-wal").symlink_to("/etc/passwd")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("made-by-following"))


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


WHAT: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link": linked,
    "a dangling link": dangling,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a linked log": linked_log,
    "a log that is a pipe": lambda path: (
        Store.open(path).close(),
        os.mkfifo(path.with_name(path.name + "-wal")),
    ),
    "a text": lambda path: path.write_text("not a database\n" * 100),
    "a short text": lambda path: path.write_text("x"),
    "another program's": other_program,
    "another program's with its mark": marked,
    "an endless view": endless,
    "a trigger": with_trigger,
    "a cut header": lambda path: path.write_bytes(b"SQLite format 3\0"),
}


def fingerprint(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for each in sorted(folder.iterdir()):
        status = each.lstat()
        regular = stat.S_ISREG(status.st_mode)
        found[each.name] = (status.st_mode, each.read_bytes() if regular else None)
    return found


@pytest.mark.parametrize("name", WHAT)
def test_a_file_that_is_not_a_store_is_an_error_and_unchanged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "store.sqlite3"
    WHAT[name](path)
    before = fingerprint(tmp_path)
    for opened in (Store.open, Store.open_to_read):
        with pytest.raises(StoreError, match="this is no store"):
            opened(path)
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", ["a pipe", "another program's", "an endless view", "a link"])
def test_every_command_reports_a_file_that_is_not_a_store(
    tmp_path: Path, command: list[str], name: str
) -> None:
    cli = Cli(tmp_path)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    WHAT[name](state / "store.sqlite3")
    before = fingerprint(state)
    done = cli(*command, timeout_s=30)
    assert "this is no store" in done.out + done.err
    after = fingerprint(state)
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("name", ["a pipe", "another program's", "an endless view", "a link"])
def test_exec_runs_the_command_without_a_usable_store(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    WHAT[name](state / "store.sqlite3")
    done = cli("exec", "--", "sh", "-c", "echo ran; exit 3", timeout_s=30)
    assert (done.code, done.out) == (3, "ran\n")


def test_a_store_of_an_earlier_version_without_an_application_id_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 0")
    connection.close()
    Store.open(path).close()
    assert int.from_bytes(path.read_bytes()[68:72], "big") == APPLICATION_ID


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to give a file away"
)
def test_a_store_of_another_user_is_read_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    Store.open(path).close()
    os.chown(path, 65534, 65534)
    with pytest.raises(StoreError, match="another user"):
        Store.open(path)
    with Store.open_to_read(path) as store:
        assert store.read_only


@pytest.mark.parametrize(
    "command",
    [
        ["exec", "--", "true"],
        ["status"],
        ["runs"],
        ["show", "last"],
        ["logs"],
        ["flush", "--wait", "0.2"],
    ],
    ids=lambda command: command[0],
)
def test_pipes_in_place_of_any_state_file_do_not_block(tmp_path: Path, command: list[str]) -> None:
    cli = Cli(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    cli("exec", "--", "true")
    state = tmp_path / "state"
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    done = cli(*command, timeout_s=30)
    if command[0] == "exec":
        assert done.code == 0


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
@pytest.mark.parametrize("name", ["delivery.json", "spool/adopt.lock", "backend.json", "logs"])
def test_nothing_is_written_through_a_hard_link(
    tmp_path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    cli = Cli(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    cli("exec", "--", "echo", "first")
    path, other = tmp_path / "state" / name, tmp_path / "other"
    other.write_text("of somebody" * 9)
    path.unlink(missing_ok=True)
    link(path, other)
    done = cli("exec", "--", "echo", "ran")
    assert (done.code, done.out) == (0, "ran\n")
    cli("status")
    cli("flush", "--wait", "0.2")
    assert other.read_text() == "of somebody" * 9


@pytest.mark.parametrize("name", ["spool", "logs"])
def test_nothing_is_written_into_a_symlinked_folder(tmp_path: Path, name: str) -> None:
    cli = Cli(tmp_path, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    state, other = tmp_path / "state", tmp_path / "other"
    other.mkdir()
    state.mkdir(mode=0o700)
    (state / name).symlink_to(other)
    done = cli("exec", "--", "echo", "ran")
    assert (done.code, done.out) == (0, "ran\n")
    cli("flush", "--wait", "0.2")
    assert list(other.iterdir()) == []


def test_only_files_of_our_own_are_opened(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    os.close(open_own(path, os.O_WRONLY))
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    other.write_text("kept")
    for make in (
        lambda: path.symlink_to(other),
        lambda: path.hardlink_to(other),
        lambda: os.mkfifo(path),
        path.mkdir,
    ):
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(OSError, match=r"(?i)regular|symbolic|directory|no such device"):
            os.close(open_own(path, os.O_WRONLY | os.O_TRUNC))
    assert other.read_text() == "kept"


@pytest.mark.parametrize("ending", ["-shm", "-wal", "-journal"])
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
def test_nothing_is_written_through_a_hard_link_beside_the_store(
    tmp_path: Path, ending: str, link: Callable[[Path, Path], None]
) -> None:
    cli = Cli(tmp_path)
    cli("exec", "--", "true")
    other = tmp_path / "other"
    other.write_bytes(b"of somebody" * 9_000)
    beside = tmp_path / "state" / f"store.sqlite3{ending}"
    beside.unlink(missing_ok=True)
    link(beside, other)
    for command in (["exec", "--", "true"], ["status"]):
        assert "Traceback" not in cli(*command).err
    assert other.read_bytes() == b"of somebody" * 9_000
