"""Redaction takes CPU time linear in the length of a text; adversarial texts are generated from every rule."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thorough import examples

from spanbus._telemetry.redaction import Redactor
from spanbus._telemetry.secret_rules import Rule, rules
from spanbus._telemetry.sensitive_names import PARTS, WORDS, is_sensitive

SMALL, LARGE = 4_096, 32_768
MOST_RATIO = 4.0
"""Time per byte of the large text against the small one: 8 where it is quadratic, about 1 where it is linear."""
NOTICED_S = 0.1
"""A large text that takes less is not measured a second time."""

redactor = Redactor()
every_rule = pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=f"{rule.kind} {rule.name}") for kind in rules() for rule in kind]
)


def scrub(text: str) -> float:
    """Return the CPU time that a text takes."""
    started_ns = time.process_time_ns()
    redactor.text(text, LARGE)
    return (time.process_time_ns() - started_ns) / 1e9


def assert_linear(unit: str) -> None:
    large = (unit * (LARGE // len(unit) + 1))[:LARGE]
    scrub(large[:256])  # patterns are compiled
    took = scrub(large)
    if took < NOTICED_S:
        return
    small = large[:SMALL]
    ratio = min(
        (scrub(large) / LARGE) / (min(scrub(small) for _ in range(3)) / SMALL) for _ in range(3)
    )
    assert ratio < MOST_RATIO, f"{unit!r}: {took:.3f} s, {ratio:.1f} times the time per byte"


def units(rule: Rule) -> Iterator[str]:
    """Generate repetitions of text that almost matches the rule."""
    literal = max(rule.literals, key=len) if rule.literals else "M" + "a" * 25 + "."
    for behind in ("", "-", "aB3-" * 12 + "!", "1,"):
        yield literal + behind


@pytest.mark.slow
@every_rule
def test_texts_that_almost_match_a_rule_take_linear_time(rule: Rule) -> None:
    for unit in units(rule):
        assert_linear(unit)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    [
        "sk-",
        "hf_",
        "gsk_",
        "xai-",
        "re-",
        "fw-",
        "token0_token1_",
        "sk-sk-",
        "api_key_",
        "sk_live_",
        "eyJ.eyJ",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "a" * 64 + "\n",
        "a" * 900 + "!\n-----END PRIVATE KEY-----\n",
        "\\",
        "\\\\n",
        "\\u200",
        "\u200b",
        "é\u200b",
        "\x1b[",
        "['a', ",
        '["a","b"',
        "['a','b'],",
        "['[\\'",
        "<token ",
        "<token><![CDATA[",
        'token="""',
        "token='''",
        'key="token" value=',
        'value="a" key="token" ',
        'name="token"\n',
        "tokens:\n  - a\n",
        "token: |\n  a\n",
        "token: |\\n  a\\n",
        "echo a | docker login --password-stdin ",
        "token: [",
        "token: {",
        "- token: [",
        "token: ['",
        'token: ["a", ',
        'token: {"a": ',
        'api_key: ["',
        "'token': '",
        '\\"token\\": \\"',
        "token: \\",
        "token: (",
        "=token=",
        "token=a,b",
        "curl -u a:",
        "token%3A",
        "token: Some(",
        "token: &a ",
        "config set token ",
        "--token ",
        "curl -u ",
        "mysql -p ",
        "docker login -p",
        "://a:",
        "mysql://:",
        "a@tcp(",
        "password is ",
        "login a ",
        "'token',",
        "%41",
        "%25",
        "%252525",
        "a%20token%3D",
        "aaaa%",
        "token%3A%2F%2F%3A",
        "| token | ",
        "token | a1",
        "`token` | `",
        "`token`: `",
        "token?=",
        "token+=",
        "token=@",
        "setenv token ",
        "set -x token ",
        "ENV token ",
        "BUNDLE_a__",
        "smtpPass",
        "aPassPwd:",
        ":5432:a:",
        "live_aB3",
        "-s-s4t2ud-",
        "s\ufe0f",
        "\ufe0f",
        "s\u3164\ufe0f",
        "\\ufe0f",
        "\\\\ufe0f",
        "\\udb40",
    ],
)
def test_texts_that_once_were_slow_take_linear_time(unit: str) -> None:
    assert_linear(unit)


@pytest.mark.slow
@pytest.mark.parametrize("part", [*WORDS, *PARTS])
def test_long_names_take_linear_time(part: str) -> None:
    for unit in (f"{part}_", f"x{part}0."):
        name = (unit * LARGE)[:LARGE]
        is_sensitive(name)
        redactor.arguments([name, "--" + name, f"{name}={name}"])
        assert_linear(f"{unit}{unit} ")


def test_a_list_of_many_arguments_takes_linear_time() -> None:
    assert_linear("['a1b2', 'c3d4'" + ", 'e5f6'" * 400 + "] ")


_fragments = (
    st.lists(
        st.one_of(
            st.sampled_from(
                [literal for kind in rules() for rule in kind for literal in rule.literals]
            ),
            st.sampled_from([*WORDS, *PARTS]),
            st.sampled_from(list(" \n\"'=:,.-_/@()[]{}<>\\%&$;|")),
            st.text(st.sampled_from("abcXYZ019"), max_size=4),
        ),
        min_size=1,
        max_size=6,
    )
    .map("".join)
    .filter(bool)
)


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", examples(15))), deadline=None)
@given(_fragments)
def test_any_mixture_of_rule_literals_takes_linear_time(unit: str) -> None:
    assert_linear(unit)
