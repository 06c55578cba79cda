"""Redaction of private keys whose first or last lines are missing from the kept text."""

from __future__ import annotations

import base64
import random

import pytest

from spanbus._telemetry.redaction import REDACTED, Redactor

redactor = Redactor()
WORDS = ("RSA PRIVATE ", "PRIVATE ", "OPENSSH PRIVATE ", "EC PRIVATE ", "ENCRYPTED PRIVATE ")


def body(lines: int = 14, last: int = 20) -> list[str]:
    noise = base64.b64encode(random.Random(7).randbytes(48 * lines + last)).decode()
    return [noise[at : at + 64] for at in range(0, len(noise), 64)]


def end(words: str = "RSA PRIVATE ") -> str:
    return f"-----END {words}" + "KEY-----"


def assert_gone(lines: list[str], found: str) -> None:
    for line in lines:
        assert line not in found, found
        assert line[: len(line) // 2 + 4] not in found, found


PREFIXES = {
    "none": lambda at: "",
    "indented": lambda at: "    ",
    "tab": lambda at: "\t",
    "quoted reply": lambda at: "> ",
    "compose": lambda at: "web_1  | ",
    "diff": lambda at: "+",
    "time": lambda at: f"2026-11-28T10:00:{at:02d}Z INFO ",
    "bracketed": lambda at: f"[{at}] deploy: ",
    "github": lambda at: f"2026-11-28T10:00:00.{at:07d}Z ",
    "line number": lambda at: f"{at + 3:6d}  ",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("last", [1, 5, 20, 47])
def test_a_key_without_its_first_lines_is_redacted(prefix: str, words: str, last: int) -> None:
    before = PREFIXES[prefix]
    lines = body(last=last)
    cut = [lines[3][9:], *lines[4:]]
    text = "\n".join([*(before(at) + line for at, line in enumerate(cut)), before(60) + end(words)])
    found = redactor.text(text + "\nexit 1", 20_000)
    assert_gone(cut[1:], found)
    assert cut[0] not in found
    assert found.endswith("\nexit 1")
    assert redactor.text(found, 20_000) == found


@pytest.mark.parametrize("written", ["\\n", "\\r\\n", "\\\\n"])
def test_a_key_without_its_first_lines_in_json_is_redacted(written: str) -> None:
    lines = body()
    text = written.join([*lines[4:], end(), '"}'])
    assert_gone(lines[5:], redactor.text(text, 20_000))


def test_a_key_without_its_first_lines_in_source_code_is_redacted() -> None:
    lines = body()
    text = "\n".join([*(f'    "{line}\\n" +' for line in lines[4:]), f'    "{end()}\\n";'])
    assert_gone(lines[5:], redactor.text(text, 20_000))


def test_a_key_with_headers_and_without_its_first_line_is_redacted() -> None:
    lines = body()
    head = ["Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-128-CBC,0123456789ABCDEF", ""]
    found = redactor.text("\n".join(["starting", *head, *lines, end()]), 20_000)
    assert_gone(lines, found)
    assert "starting" in found


def test_a_key_without_its_end_is_redacted() -> None:
    lines = body()
    begin = "-----BEGIN RSA PRIVATE " + "KEY-----"
    found = redactor.text("\n".join(["starting", f"  {begin}", *lines[:8]]), 20_000)
    assert_gone(lines[:8], found)
    assert found.startswith("starting")


def test_several_keys_are_redacted_if_the_first_is_cut() -> None:
    lines = body()
    begin = "-----BEGIN RSA PRIVATE " + "KEY-----"
    text = "\n".join([*lines[5:], end(), "between them", begin, *lines, end(), "after them"])
    found = redactor.text(text, 20_000)
    assert_gone(lines[5:], found)
    assert found == f"{REDACTED}\nbetween them\n{REDACTED}\nafter them"


def test_text_before_the_rest_of_a_key_is_unchanged() -> None:
    lines = body()
    text = "\n".join(["12 passed, 1 failed", "the key was:", *lines[5:], end(), "done"])
    assert redactor.text(text, 20_000) == f"12 passed, 1 failed\nthe key was:\n{REDACTED}\ndone"
