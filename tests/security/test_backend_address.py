"""The address in ``backend.json`` is believed only for a living process of this host, over http, on this host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spanbus._backend.address import (
    FILE_NAME,
    Address,
    ProcessId,
    process_started,
    read_address,
    write_address,
)

GOOD = "http://127.0.0.1:4318"


def put(folder: Path, **changes: object) -> Path:
    path = folder / FILE_NAME
    path.write_text(json.dumps({"url": GOOD, "token": "t", **ProcessId.own()._asdict(), **changes}))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("url", [GOOD, "http://[::1]:4318", "http://127.8.9.10:1"])
def test_a_loopback_address_is_accepted(tmp_path: Path, url: str) -> None:
    put(tmp_path, url=url)
    assert read_address(tmp_path) == Address(url, "t", ProcessId.own())


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "https://127.0.0.1:4318",
        "http://evil.example:4318",
        "http://192.0.2.7:4318",
        "http://[2001:db8::7]:4318",
        "http://127.0.0.1:4318@evil.example:80",
        "http://127.0.0.1@evil.example:80",
        "http://evil.example#@127.0.0.1:4318",
        "http://user:pw@127.0.0.1:4318",
        "http://127.0.0.1.evil.example:4318",
        "http://localhost.evil.example:4318",
        "http://localhost:4318",
        "http://127.1:4318",
        "http://2130706433:4318",
        "http://0x7f.0.0.1:4318",
        "http://0177.0.0.1:4318",
        "http://0.0.0.0:4318",
        "http://[::]:4318",
        "http://[::ffff:192.0.2.7]:4318",
        "http://224.0.0.1:4318",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:4318/",
        "http://127.0.0.1:4318/x",
        "http://127.0.0.1:4318?x",
        "http://127.0.0.1:4318\n",
        "HTTP://127.0.0.1:4318",
        " http://127.0.0.1:4318",
        "http:\\\\127.0.0.1:4318",
        "javascript:alert(1)",
        "unix:///tmp/x",
        "",
        7,
        None,
    ],
)
def test_another_address_is_rejected(tmp_path: Path, url: object) -> None:
    put(tmp_path, url=url)
    assert read_address(tmp_path) is None


def test_an_address_of_this_host_written_with_listen_is_accepted(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which interface it would take
        except OSError:
            pytest.skip("this host has the loopback alone")
        own = probe.getsockname()[0]
    put(tmp_path, url=f"http://{own}:4318")
    assert read_address(tmp_path) is not None


def test_a_process_of_another_host_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, host="another")
    assert read_address(tmp_path) is None


def test_a_process_with_another_start_time_is_rejected(tmp_path: Path) -> None:
    if process_started(os.getpid()) is None:
        pytest.skip("this system does not tell when a process started")
    for started in ("", "1", None):
        put(tmp_path, started=started)
        assert read_address(tmp_path) is None


@pytest.mark.parametrize("pid", [0, -1, 2**40, 2**80, "1", 1.5, None])
def test_an_address_without_a_process_is_rejected(tmp_path: Path, pid: object) -> None:
    put(tmp_path, pid=pid)
    assert read_address(tmp_path) is None


def test_a_dead_process_is_rejected(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process_started(child.pid)
        child.kill()
    put(tmp_path, pid=child.pid, started=started)
    assert read_address(tmp_path) is None


@pytest.mark.parametrize("token", ["", "a b", "a\r\nHost: x", "\x1b[2J", "x" * 2_000, 5, None])
def test_an_invalid_token_is_rejected(tmp_path: Path, token: object) -> None:
    put(tmp_path, token=token)
    assert read_address(tmp_path) is None


def test_a_file_writable_by_others_is_rejected(tmp_path: Path) -> None:
    put(tmp_path).chmod(0o622)
    assert read_address(tmp_path) is None


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / FILE_NAME).symlink_to(put(folder))
    assert read_address(tmp_path) is None


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    assert read_address(tmp_path) is None


def test_a_device_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to("/dev/zero")
    assert read_address(tmp_path) is None


def test_deep_nesting_is_rejected_without_an_error(tmp_path: Path) -> None:
    put(tmp_path).write_text("[" * 60_000)
    assert read_address(tmp_path) is None


def test_a_written_address_is_read_back(tmp_path: Path) -> None:
    address = Address(GOOD, "token", ProcessId.own())
    write_address(tmp_path, address)
    assert read_address(tmp_path) == address
