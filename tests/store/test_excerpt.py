"""Excerpts of a kept output: the part since a position, and the end of a long one."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from spanbus._store.output import folder_of
from spanbus._store.output_reading import KeptOutput, excerpt, kept_outputs


class Log:
    """An output as the writer stores it: gzip, flushed while it grows, in parts."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.folder = folder_of(state_dir, "run")
        self.folder.mkdir(parents=True)
        about = {"file": "1", "phase": "tests", "tool": "pytest"}
        (self.folder / "index.jsonl").write_text(f"{json.dumps(about)}\n")
        self._packer = zlib.compressobj(wbits=31)
        self.part = 0

    def write(self, text: str) -> None:
        suffix = f".{self.part}" if self.part else ""
        with (self.folder / f"1{suffix}.log.gz").open("ab") as file:
            file.write(self._packer.compress(text.encode()) + self._packer.flush(zlib.Z_SYNC_FLUSH))

    def next_part(self) -> None:
        with (self.folder / f"1{f'.{self.part}' if self.part else ''}.log.gz").open("ab") as file:
            file.write(self._packer.flush())
        self._packer = zlib.compressobj(wbits=31)
        self.part += 1

    @property
    def kept(self) -> KeptOutput:
        [one] = kept_outputs(self.state_dir, "run")
        return one


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_the_pieces_add_up_to_the_output(log: Log) -> None:
    at, seen = "", ""
    for text in ("one\ntw", "o\nthree\n", "", "größe\n", "unfinished"):
        log.write(text)
        piece = excerpt(log.kept, at)
        assert not piece.left_out
        at, seen = piece.at, seen + piece.text
    assert seen == "one\ntwo\nthree\ngröße\n"


def test_a_line_across_two_parts_is_returned_whole(log: Log) -> None:
    log.write("one\nbegin")
    first = excerpt(log.kept)
    log.next_part()
    log.write("ning\nlast\n")
    second = excerpt(log.kept, first.at)
    assert (first.text, second.text) == ("one\n", "beginning\nlast\n")
    assert excerpt(log.kept, second.at) == ("", second.at, False)


def test_of_long_output_the_last_lines_are_returned(log: Log) -> None:
    log.write("".join(f"line {number}\n" for number in range(100_000)))
    piece = excerpt(log.kept, most_bytes=10_000)
    assert piece.left_out
    assert len(piece.text) <= 10_000
    assert piece.text.startswith("line ")
    assert piece.text.endswith("line 99999\n")


def test_a_deleted_part_is_reported(log: Log) -> None:
    log.write("first\n")
    at = excerpt(log.kept).at
    for _ in range(2):
        log.next_part()
        log.write("later\n")
    (log.folder / "1.1.log.gz").unlink()
    piece = excerpt(log.kept, at)
    assert piece.left_out
    assert excerpt(log.kept, piece.at) == ("", piece.at, False)


@pytest.mark.parametrize(
    "place", ["nonsense", "1", "-1:0", "0:-5", "99999999999999:1", "\u0661:\u0662", "0:0\n"]
)
def test_an_invalid_position_means_the_beginning(log: Log, place: str) -> None:
    log.write("one\n")
    assert excerpt(log.kept, place).text == "one\n"


def test_a_corrupt_file_raises_no_error(log: Log) -> None:
    log.write("one\n")
    with (log.folder / "1.log.gz").open("ab") as file:
        file.write(b"\xff" * 100)
    assert excerpt(log.kept).text in ("", "one\n")
