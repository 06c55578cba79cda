"""The collector's patterns for values of bytes, which it reads as base64: every shape at every place, and nothing else."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
redaction = yaml.safe_load((ROOT / "collector-config.yaml").read_text())["processors"]["redaction"]
alone, in_json = (
    re.compile(each.replace("\\z", "\\Z")) for each in redaction["blocked_values"][-2:]
)

SECRETS = [
    "gh" + "p_" + "a1B2" * 9,
    "github_" + "pat_" + "a1B2" * 12,
    "gl" + "pat-" + "a1B2" * 5,
    "AK" + "IAIOSFODNN7EXAMPLE",
    "xo" + "xb-1234567890-abcdef",
    "sk-" + "proj-" + "a1B2" * 9,
    "sk_" + "live_" + "a1B2" * 5,
    "rk_" + "test_" + "a1B2" * 5,
    "ey" + "JhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow\n",
    "Authorization: Bearer abcdef0123456789",
    "BASIC dXNlcjpwYXNzd29yZA==",
    "basic\tdXNlcjpwYXNzd29yZA==",
    "postgres://user:hunter2@db/x",
    "redis://:hunter2@cache:6379/0",
    "https://x:y-z@example.org",
    "https://xy:yz@example.org",
    "amqp://a-long-user-name:a%20pass@host",
    "password=hunter2",
    "PASSWORD: hunter2",
    "my Passwd=hunter2",
    "pwd=hunter2",
    "client_secret=hunter2",
    "TOKEN=hunter2",
    "api_key=hunter2",
    "apiKey:hunter2",
    "API-KEY = hunter2".replace(" = ", "="),
]


def spelled(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:14])
@pytest.mark.parametrize("behind", ["", "\n", " and what comes then: größe, 日本語 \x00\x01"])
def test_a_secret_anywhere_in_bytes(secret: str, behind: str) -> None:
    for before in (0, 1, 2, 6):
        value = spelled(f"{'line 1, '[:before]}{secret}{behind}".encode())
        assert alone.sub("****", value) == "****", before
        text = json.dumps(
            {"list": ["a", value, value], "inner": {"k": value}}, separators=(",", ":")
        )
        found = in_json.sub("****", text)
        assert value not in found and value[4:40] not in found, before


def test_bytes_that_hold_no_secret_stay() -> None:
    chosen = random.Random(7)
    files = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "src/spanbus/_store").glob("*.py"),
    ]
    plain = [
        line for file in files for line in file.read_text("utf-8").splitlines() if line.strip()
    ]
    contents = [
        *(chosen.randbytes(chosen.randint(1, 400)) for _ in range(4_000)),
        *(line.encode() for line in plain),
        b"https://example.org:8443/a/b?c=d#e",
        b"mailto:somebody@example.org",
        b"token, password and secret are words",
        b"\x89PNG\r\n\x1a\n" + bytes(200),
    ]
    taken = [content for content in contents if alone.search(spelled(content)) is not None]
    found = [
        content
        for content in taken
        if re.search(
            rb"(?i)(?:token|secret|pass|pwd|key)[\w-]*[=:]|(?:basic|bearer) |://:|@", content
        )
        is None
    ]
    assert found == []
    assert len(taken) < len(contents) * 0.02, taken


def test_words_and_ids_stay() -> None:
    for text in (
        "workflow",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "tests/security/test_bombs.py",
        "2026-01-01T00:00:00Z",
        "aHR0cHM6Ly9leGFtcGxlLm9yZy9hL2I/Yz1k",
        "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=",
    ):
        assert alone.search(text) is None
        assert in_json.search(json.dumps([text])) is None


def test_the_file_holds_what_the_tool_writes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/collector_bytes.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
