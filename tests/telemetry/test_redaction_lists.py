"""Secrets in lists of arguments, also printed by Python or JSON, and in values of several parts."""

from __future__ import annotations

import json
import shlex

import pytest

from spanbus._telemetry.redaction import Redactor

redactor = Redactor()

COMMANDS = [
    "docker login -u bob -p s3cr3tWord registry.example",
    "sudo docker login -p s3cr3tWord",
    "mysql -uroot -ps3cr3tWord db",
    "sshpass -p s3cr3tWord ssh host",
    "env X=1 mysql -psecretWord db",
    "curl -u bob:s3cr3tWord https://x",
    "gh auth --token s3cr3tWord",
    "set password --token s3cr3tWord",
    "curl -H 'Authorization: Basic s3cr3tWord=' https://x",
    "helm --set x --db-password s3cr3tWord --force",
    "api_key = s3cr3tWord",
    "curl -H Cookie: sid=s3cr3tWord;",
    "run Authorization: Basic s3cr3tWord==",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "written",
    [
        repr,
        json.dumps,
        lambda arguments: repr(tuple(arguments)),
        lambda arguments: f"Command '{arguments}' returned 1.",
    ],
)
def test_secrets_in_a_printed_list_of_arguments_are_redacted(command: str, written: object) -> None:
    assert callable(written)
    text = redactor.text(str(written(shlex.split(command))))
    assert "cr3tWord" not in text
    assert "secretWord" not in text
    assert "REDACTED" in text
    assert redactor.text(text) == text


@pytest.mark.parametrize("command", COMMANDS)
def test_secrets_in_a_list_of_arguments_are_redacted(command: str) -> None:
    found = " ".join(redactor.arguments(shlex.split(command)))
    assert "cr3tWord" not in found
    assert "secretWord" not in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["pytest", "-k", "password", "tests/auth"],
        ["ruff", "check", "--select", "E,F"],
        ["git", "commit", "-m", "session tokens"],
        ["auth", "billing"],
        ["pass", "fail"],
        ["docker", "run", "-p", "8080:80", "nginx"],
        ["cp", "-p", "password_reset.py", "x"],
    ],
)
def test_harmless_arguments_are_unchanged(arguments: list[str]) -> None:
    assert list(redactor.arguments(arguments)) == arguments


def test_a_private_key_in_a_list_of_lines_is_redacted(tmp_path: object) -> None:
    del tmp_path
    lines = [
        "-----BEGIN RSA PRIVATE KEY-----",
        "MIIEowIBAAKCAQEAxyzxyzxyz",
        "abcdefgh",
        "-----END RSA PRIVATE KEY-----",
        "done",
    ]
    assert redactor.arguments(lines) == ("REDACTED", "REDACTED", "REDACTED", "REDACTED", "done")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('{"passwords": ["s3cr3tWord", "s3cr3tWord2"], "host": "x"}', '"host": "x"'),
        ('{"credentials": {"user": "u", "value": "s3cr3tWord"}, "a": 1}', '"a": 1'),
        ("db:\n  password: >-\n    s3cr3tWord\n    s3cr3tWord\n  host: x", "host: x"),
        ("secret: |\n  s3cr3tWord\nhost: x", "host: x"),
        ("%7B%22password%22%3A%20%22s3cr3tWord%22%2C%22host%22%3A%22x%22%7D", "host"),
        ("https://x/login?next=%2Fcb%3Faccess_token%3Ds3cr3tWord%26page%3D1", "page%3D1"),
        ("ALTER USER bob WITH PASSWORD 's3cr3tWord';", "bob"),
        ("jdbc:oracle:thin:scott/s3cr3tWord@//h:1521/x", "scott"),
    ],
)
def test_values_of_several_parts_are_redacted(text: str, kept: str) -> None:
    found = redactor.text(text)
    assert "s3cr3t" not in found
    assert kept in found
    assert redactor.text(found) == found
