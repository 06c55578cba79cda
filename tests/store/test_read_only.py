"""A store in a read-only folder can still be read."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spanbus._store.schema import VERSION
from spanbus._store.store import Store
from spanbus.errors import StoreError

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="takes the right to write away as Linux has it"
)


def spans(name: str) -> bytes:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(
            trace_id=os.urandom(16),
            span_id=os.urandom(8),
            name=name,
            start_time_unix_nano=1,
            end_time_unix_nano=2,
        )
    )
    for key, value in (
        ("spanbus.level", "run"),
        ("cicd.pipeline.run.id", name),
        ("cicd.pipeline.name", "w"),
        ("cicd.pipeline.result", "success"),
    ):
        span.attributes.add(key=key).value.string_value = value
    return request.SerializeToString()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state #1%"
    with Store.open(made / "store.sqlite3") as store:
        store.ingest("traces", spans("first"))
    return made


Sealed = Callable[[Path], None]


@pytest.fixture
def seal() -> Iterator[Sealed]:
    """Make a folder read-only, for root too."""
    sealed: list[Path] = []

    def apply(folder: Path) -> None:
        sealed.append(folder)
        for each in folder.iterdir():
            each.chmod(0o400)
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):  # root may; an immutable folder is shut for it too
            chattr = shutil.which("chattr")
            if chattr is None or any(
                subprocess.run(
                    [chattr, "+i", str(each)], check=False, capture_output=True
                ).returncode
                for each in (*folder.iterdir(), folder)
            ):
                pytest.skip("nothing here takes the right to write from root")

    yield apply
    for folder in sealed:
        if (chattr := shutil.which("chattr")) is not None and os.geteuid() == 0:
            subprocess.run(
                [chattr, "-i", str(folder), *map(str, folder.iterdir())],
                check=False,
                capture_output=True,
            )
        folder.chmod(0o700)


def runs(path: Path) -> list[str]:
    with Store.open_to_read(path) as store:
        return [head.run_id for head in store.run_heads()]


def test_runs_are_read_from_a_read_only_folder(folder: Path, seal: Sealed) -> None:
    seal(folder)
    before = sorted(each.name for each in folder.iterdir())
    assert runs(folder / "store.sqlite3") == ["first"]
    assert sorted(each.name for each in folder.iterdir()) == before


def test_the_write_ahead_log_of_a_killed_writer_is_read(
    folder: Path, tmp_path: Path, seal: Sealed
) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom spanbus._store.store import Store\n"
        "store = Store.open(Path(sys.argv[1]))\nstore.ingest('traces', sys.stdin.buffer.read())\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "store.sqlite3")],
        input=spans("second"),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert (folder / "store.sqlite3-wal").stat().st_size
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in (
        "store.sqlite3",
        "store.sqlite3-wal",
    ):  # as a backup has it, which leaves the index of the log out
        shutil.copy(folder / name, copied / name)
    for each in (folder, copied):
        seal(each)
        assert sorted(runs(each / "store.sqlite3")) == ["first", "second"]


def test_a_read_only_store_refuses_to_ingest(folder: Path, seal: Sealed) -> None:
    seal(folder)
    with Store.open_to_read(folder / "store.sqlite3") as store:
        assert store.read_only
        for signal_name in ("traces", "metrics", "logs"):
            with pytest.raises(StoreError, match="cannot be written"):
                store.ingest(signal_name, b"")


def test_a_writable_folder_is_opened_for_writing(folder: Path) -> None:
    with Store.open_to_read(folder / "store.sqlite3") as store:
        assert not store.read_only
        store.ingest("traces", spans("second"))
    assert sorted(runs(folder / "store.sqlite3")) == ["first", "second"]


@pytest.mark.parametrize(("statement", "said"), [
    (f"PRAGMA user_version = {VERSION + 1}", "update spanbus"), ("PRAGMA user_version = 0", "no store in it"),
])  # fmt: skip
def test_an_unusable_read_only_store_is_an_error_with_a_reason(
    folder: Path, seal: Sealed, statement: str, said: str
) -> None:
    connection = sqlite3.connect(folder / "store.sqlite3")
    connection.execute(statement)
    connection.close()
    seal(folder)
    with pytest.raises(StoreError, match=said):
        Store.open_to_read(folder / "store.sqlite3")


def test_a_damaged_read_only_store_is_an_error(folder: Path, seal: Sealed) -> None:
    (folder / "store.sqlite3").write_bytes(b"this is no database" * 100)
    seal(folder)
    with pytest.raises(StoreError, match="no store that can be read"):
        Store.open_to_read(folder / "store.sqlite3")
