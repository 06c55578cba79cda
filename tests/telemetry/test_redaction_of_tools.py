"""Redaction of secrets in the syntax of tools, languages and newer services, in texts, arguments and payloads."""

from __future__ import annotations

import json

import pytest
from secrets_corpus import Named
from secrets_of_tools import NAMED_MORE, SHAPED_MORE

from spanbus._telemetry.redaction import Redactor

redactor = Redactor()
LONG = 100_000


def written(named: Named) -> str:
    return named.around.replace("%%", "\0").replace("%s", named.secret).replace("\0", "%")


def stays(secret: str, text: str) -> bool:
    """Whether the secret, or a long line of it, is still in the text."""
    lines = [
        line
        for line in secret.replace("\\n", "\n").split("\n")
        if len(line) >= 40 and "-----" not in line and "PRIVATE KEY" not in line
    ]
    return secret in text or any(line in text for line in lines)


@pytest.mark.parametrize("name", SHAPED_MORE)
def test_secrets_with_a_known_shape_are_redacted(name: str) -> None:
    secret = SHAPED_MORE[name]
    for text in (secret, f"got {secret} back", f"X={secret}\nY=1", f"--option={secret}"):
        assert not stays(secret, redactor.text(text, LONG)), text
    document = redactor.text(json.dumps({"x": secret, "y": 1}), LONG)
    assert not stays(json.dumps(secret)[1:-1], document)
    assert not any(stays(secret, each) for each in redactor.arguments(["run", "--with", secret]))
    assert not stays(secret, json.dumps(redactor.attributes({"message": f"at {secret}"})))


@pytest.mark.parametrize("named", NAMED_MORE, ids=lambda named: named.name)
def test_secrets_with_a_known_context_are_redacted(named: Named) -> None:
    text = written(named)
    assert named.secret not in redactor.text(text, LONG)
    assert named.secret not in redactor.text(f"first\n{text}\nlast", LONG)
    assert named.secret not in str(redactor.attributes({"message": text}))


@pytest.mark.parametrize(
    "text",
    [
        "access-control-allow-credentials: true",
        "def find(key: str, limit: int = 3) -> list[str]:",
        'getpass.getpass(prompt="who are you? ")',
        "get_token('db') returned None",
        "rabbitmqctl list_users",
        "openssl version -a",
        "net use",
        "SUCCESS: 12 of 12, SAVED, SOCKETS=3, SNAPSHOT",
        "the following tests failed:  tests/test_x.py",
        "AQED is not an adyen key",
        "gem push pkg/acme-1.0.gem",
        "vercel deploy --prod",
        "sudo -s; passwd --stdin is asked for",
        "step: 3 of 5, led_pin=17",
        "pulumi config set region eu-west-1",
    ],
)
def test_harmless_text_of_tools_is_unchanged(text: str) -> None:
    assert redactor.text(text, LONG) == text
