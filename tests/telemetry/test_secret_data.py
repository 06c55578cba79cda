"""The module of rules is generated from ``secrets.toml``; after a change there it must be generated again."""

from __future__ import annotations

import tomllib
from pathlib import Path

from spanbus._telemetry import secret_data, secret_rules
from spanbus._telemetry.scrubbing import _HEX_DIGITS, without_secrets


def test_the_generated_module_equals_secrets_toml() -> None:
    path = Path(secret_data.__file__).with_name("secrets.toml")
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    assert tables == secret_data.RULES, "run python tools/secret_rules.py"


def test_no_rule_matches_hexadecimal_ids_or_uuids() -> None:
    """Redaction skips texts of hexadecimal digits and UUIDs, so no literal of a rule may consist of those alone."""
    found = secret_rules.rules()
    for rule in (*found.shapes, *found.contexts, *found.commands):
        if rule.name != "discord-bot":  # without a literal; it has dots
            assert rule.literals, rule.name
        for literal in rule.literals:
            assert not _HEX_DIGITS.issuperset(literal), rule.name
            assert not _HEX_DIGITS.issuperset(literal.strip("-")) or len(literal) < 5, rule.name


def test_a_key_with_a_prefix_before_hexadecimal_digits_is_redacted() -> None:
    key = "fc-" + "0123456789abcdef" * 2
    assert without_secrets(key) == "REDACTED"
    for kept in ("0123456789abcdef" * 2, "01234567-89ab-cdef-fc00-0123456789ab"):
        assert without_secrets(kept) == kept
