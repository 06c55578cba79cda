"""The module of rules is what ``secrets.toml`` says: who adds a rule there makes it anew."""

from __future__ import annotations

import tomllib
from pathlib import Path

from spanbus._telemetry import secret_data, secret_rules
from spanbus._telemetry.scrubbing import _HEX_DIGITS, without_secrets


def test_the_module_is_what_the_file_says() -> None:
    path = Path(secret_data.__file__).with_name("secrets.toml")
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    assert tables == secret_data.RULES, "run python tools/secret_rules.py"


def test_no_rule_could_find_anything_in_an_id() -> None:
    """Texts of hexadecimal digits alone are not looked through, and neither are UUIDs, which have a dash behind four or more."""
    found = secret_rules.rules()
    for rule in (*found.shapes, *found.contexts, *found.commands):
        if rule.name != "discord-bot":  # without a literal; it has dots
            assert rule.literals, rule.name
        for literal in rule.literals:
            assert not _HEX_DIGITS.issuperset(literal), rule.name
            assert not _HEX_DIGITS.issuperset(literal.strip("-")) or len(literal) < 5, rule.name


def test_a_key_of_hexadecimal_digits_with_a_dash_is_no_id() -> None:
    key = "fc-" + "0123456789abcdef" * 2
    assert without_secrets(key) == "REDACTED"
    for kept in ("0123456789abcdef" * 2, "01234567-89ab-cdef-fc00-0123456789ab"):
        assert without_secrets(kept) == kept
