"""Redaction: secrets are removed from texts, arguments and payloads; harmless text is unchanged."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest
from cases import of_each
from hypothesis import given, settings
from hypothesis import strategies as st
from secrets_corpus import HARMLESS, NAMED, SECRETS, SHAPED, Named, noise
from thorough import examples

from spanbus._telemetry.redaction import REDACTED, Redactor, is_sensitive
from spanbus.errors import SettingsError

redactor = Redactor()
shaped = of_each(SHAPED)
named = of_each({case.name: case for case in NAMED})


def pieces(secret: str) -> list[str]:
    """Return the parts of a secret that must not be visible: every line, plain and JSON-escaped."""
    return [
        piece
        for line in secret.splitlines()
        if len(line) >= 6 and "PRIVATE KEY" not in line
        for piece in (line, json.dumps(line)[1:-1])
    ]


def assert_gone(secret: str, found: object) -> None:
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
    for piece in pieces(secret):
        assert piece not in text, text
        assert piece[: len(piece) // 2 + 1] not in text, text
        assert piece[len(piece) // 2 :] not in text, text


def test_the_corpus_is_large_enough() -> None:
    assert len(set(SECRETS)) >= 60
    assert len(SHAPED) >= 60
    assert len(NAMED) >= 60


# --- secrets known by their shape -------------------------------------------------------------------------------------

AROUND = (
    "%s",
    "before %s after",
    "'%s'",
    '"%s"',
    "(%s)",
    "<%s>",
    "x=%s",
    "x: %s,",
    "path/%s/x",
    "line\n%s\nline",
    "a\\n%s\\nb",
    "\x1b[32m%s\x1b[0m",
    "_%s",
    "%%20%s",
    "|%s|",
    "\t%s",
    "[%s]",
    "`%s`",
    "%s.",
    "é%s",
)


@shaped
def test_a_secret_of_a_known_shape_is_redacted_in_any_context(secret: str) -> None:
    for around in AROUND:
        assert_gone(secret, redactor.text(around % secret, 100_000))


@shaped
def test_a_secret_of_a_known_shape_is_redacted_in_nested_json(secret: str) -> None:
    once = json.dumps({"a": [{"b": secret}]})
    assert_gone(secret, redactor.text(once, 100_000))
    assert_gone(secret, redactor.text(json.dumps({"body": once}), 100_000))
    assert_gone(secret, redactor.text(repr({"body": once}), 100_000))


@shaped
def test_a_secret_of_a_known_shape_is_redacted_in_a_payload(secret: str) -> None:
    payload = {
        "message": f"x {secret}",
        "error": RuntimeError(secret),
        "result": {"message": secret, "status": [secret, 1, None]},
        "command": ["run", secret],
        "reason": [secret, "x"],
        "summary": {"counts": {secret[:20]: secret}},
    }
    found = redactor.attributes(payload)
    assert {"message", "error", "result.message", "result.status", "command", "reason"} <= set(
        found
    )
    for value in found.values():
        assert_gone(secret, value)


@shaped
def test_no_part_of_a_secret_at_the_length_limit_is_left(secret: str) -> None:
    for before in (0, 10, 50, 80, 95, 99):
        found = redactor.text("x" * before + " " + secret, 100)
        assert len(found) <= 100
        assert_gone(secret, found)


def assert_gone_at_the_end(secret: str, step: int) -> None:
    key = "ghp" + "_" + noise("filler", 300)
    for blanks in range(0, 400, step):
        text = f"{key} " * 13 + " " * (blanks % 90) + f"{secret} " * 3
        assert_gone(secret, redactor.text(text, 1_024))


@shaped
def test_no_part_of_a_secret_at_the_end_of_a_long_text_is_left(secret: str) -> None:
    assert_gone_at_the_end(secret, 43)


@pytest.mark.slow
@shaped
def test_no_part_of_a_secret_at_the_end_of_any_long_text_is_left(secret: str) -> None:
    assert_gone_at_the_end(secret, 7)


# --- secrets known by their context -----------------------------------------------------------------------------------


@named
def test_a_secret_after_a_sensitive_name_is_redacted(case: Named) -> None:
    text = case.around.replace("%s", case.secret).replace("%%", "%")
    for around in ("%s", "before %s", "line\n%s\nline", "é %s"):
        assert_gone(case.secret, redactor.text(around % text, 100_000))


DIGEST = 'Authorization: Digest username="u", response="6629fae49393a05397450978507c4ef1"'


@pytest.mark.parametrize(
    "before",
    [
        DIGEST,
        "echo correct-h0rse!battery | docker login -u deploy --password-stdin",
        "printf 'correct-h0rse!battery' | gh auth login --with-token",
        "cargo login QevSAhm8RIqtsAW7ajyBUQU3m6CdOQ93",
        "--password-stdin",
    ],
)
def test_each_line_is_redacted_as_if_it_were_alone(before: str) -> None:
    """Regression: the name on the next line was taken for a value, so that the secret after it was not found."""
    shown = redactor.text(before, 1_000)
    for line in (
        'API_TOKEN: "7844a7c4:71b83b46"',
        "signing_key = TvtmJakurJXtn9dKdWTVjcusI3WkG2",
        "password := 'correct-h0rse!battery'",
        "DEPLOY_TOKEN=correct-h0rse!battery",
        "hello: world",
    ):
        alone = redactor.text(line, 1_000)
        assert redactor.text(f"{before}\n{line}\nlast", 1_000) == f"{shown}\n{alone}\nlast"


def test_a_value_on_the_line_after_its_option_is_redacted() -> None:
    for value in ("correct-h0rse!battery", "Y29ycmVjdC1oMHJzZSFiYXR0ZXJ5Cg=="):
        assert_gone(value, redactor.text(f"curl\n--token\n{value}\n--silent", 1_000))
    folded = redactor.text(DIGEST.replace(", ", ",\n  "), 1_000)
    assert folded == "Authorization: Digest REDACTED"


@named
def test_a_secret_after_a_sensitive_name_is_redacted_in_json(case: Named) -> None:
    text = case.around.replace("%s", case.secret)
    assert_gone(case.secret, redactor.text(json.dumps({"output": text}), 100_000))


@named
def test_a_secret_after_a_sensitive_name_is_redacted_in_a_payload(case: Named) -> None:
    text = case.around.replace("%s", case.secret)
    found = redactor.attributes(
        {
            "message": text,
            "result": {"error": text, "message": ValueError(text)},
            "output_tail": f"...\n{text}",
        }
    )
    assert len(found) == 4
    for value in found.values():
        assert_gone(case.secret, value)


@named
def test_a_secret_is_redacted_in_a_traceback(case: Named) -> None:
    text = case.around.replace("%s", case.secret)
    try:
        try:
            raise KeyError(text)
        except KeyError as error:
            raise RuntimeError(f"while doing: {text}") from error
    except RuntimeError as error:
        trace = "".join(traceback.format_exception(error))
    assert_gone(case.secret, redactor.text(trace, 16_384))


def test_secrets_in_the_text_of_called_process_error_are_redacted() -> None:
    secret = noise("failed", 20)
    error = subprocess.CalledProcessError(
        1, ["deploy", "--host", "x", "--token", secret, f"--password={secret}", "-v"]
    )
    found = redactor.text(str(error))
    assert_gone(secret, found)
    assert "'--host', 'x'" in found
    assert "returned non-zero exit status 1" in found


def test_a_private_key_without_its_first_lines_is_redacted() -> None:
    key = SHAPED["rsa key"]
    assert_gone(key, redactor.text(key[len(key) // 3 :] + "\nexit 1", 10_000))
    assert redactor.text("before\n" + key + "\nafter", 10_000) == f"before\n{REDACTED}\nafter"


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["deploy", "--token", "abc"], ("deploy", "--token", REDACTED)),
        (["deploy", "--token", "-abc"], ("deploy", "--token", REDACTED)),
        (["deploy", "--token", "--verbose"], ("deploy", "--token", REDACTED)),
        (["deploy", "--token=abc", "x"], ("deploy", f"--token={REDACTED}", "x")),
        (
            ["deploy", "--api-key", "abc", "--password", "def"],
            ("deploy", "--api-key", REDACTED, "--password", REDACTED),
        ),
        (
            ["env", "DB_PASSWORD=with blanks in it", "run"],
            ("env", f"DB_PASSWORD={REDACTED}", "run"),
        ),
        (
            ["curl", "-H", "Authorization: Bearer abc"],
            ("curl", "-H", f"Authorization: Bearer {REDACTED}"),
        ),
        (
            ["curl", "-H", "Authorization:", "Bearer", "abc"],
            ("curl", "-H", "Authorization:", "Bearer", REDACTED),
        ),
        (["curl", "-H", "X-Api-Key:", "abc"], ("curl", "-H", "X-Api-Key:", REDACTED)),
        (["curl", "-u", "me:abc", "https://x"], ("curl", "-u", f"me:{REDACTED}", "https://x")),
        (["curl", "https://me:abc@x/"], ("curl", f"https://{REDACTED}@x/")),
        (["sshpass", "-p", "abc", "ssh"], ("sshpass", "-p", REDACTED, "ssh")),
        (["/usr/bin/mysql", "-pabc1", "db"], ("/usr/bin/mysql", f"-p{REDACTED}", "db")),
        (
            ["docker", "login", "-u", "me", "-p", "abc"],
            ("docker", "login", "-u", "me", "-p", REDACTED),
        ),
        (["ruff", "check", ".", "--fix"], ("ruff", "check", ".", "--fix")),
        (
            [
                "python",
                "-u",
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "tests/test_token.py::test_x",
            ],
            None,
        ),
        (["git", "log", "--author=jane", "--pretty=%H"], None),
        ([], ()),
    ],
)
def test_the_values_of_sensitive_options_are_redacted(
    arguments: list[str], expected: tuple[str, ...] | None
) -> None:
    assert redactor.arguments(arguments) == (expected if expected is not None else tuple(arguments))


@shaped
def test_secrets_of_known_shapes_are_redacted_in_arguments(secret: str) -> None:
    assert_gone(secret, redactor.arguments(["run", secret, f"--x={secret}", f"a{'=' + secret}"]))


@named
def test_a_secret_inside_an_argument_is_redacted(case: Named) -> None:
    assert_gone(
        case.secret, redactor.arguments(["sh", "-c", case.around.replace("%s", case.secret)])
    )


def test_at_most_32_arguments_are_kept() -> None:
    assert len(redactor.arguments(["x"] * 1_000)) == 32


# --- harmless text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_is_unchanged(text: str) -> None:
    assert redactor.text(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "max_tokens",
        "token_count",
        "author",
        "public_key",
        "passed",
        "compass",
        "keyboard",
        "status",
        "pipeline",
        "tokenizer",
    ],
)
def test_harmless_names_are_not_sensitive(name: str) -> None:
    assert not is_sensitive(name)


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "DB_PASSWORD",
        "dbPassword",
        "pwd",
        "api_key",
        "apiKey",
        "X-Api-Key",
        "client-secret",
        "GITHUB_TOKEN",
        "npm_token",
        "private_key",
        "sessionId",
        "auth",
        "dsn",
    ],
)
def test_names_of_secrets_are_sensitive(name: str) -> None:
    assert is_sensitive(name)


def test_the_text_around_a_secret_is_unchanged() -> None:
    assert (
        redactor.text("GET https://me:abc@host/x?page=2 failed: 401")
        == f"GET https://{REDACTED}@host/x?page=2 failed: 401"
    )
    assert redactor.text("deploy --token abc --host db") == f"deploy --token {REDACTED} --host db"
    assert redactor.text("password=abc host=db") == f"password={REDACTED} host=db"


# --- payloads ---------------------------------------------------------------------------------------------------------


class Live:
    def __repr__(self) -> str:
        raise AssertionError("a live object was looked into")

    __str__ = __repr__


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Colour(Enum):
    RED = "red"


class Kind(StrEnum):
    FAST = "fast"


class Number(IntEnum):
    ONE = 1


def test_only_allowed_keys_are_kept() -> None:
    payload = {
        "step_id": "a",
        "environment": {"HOME": "x"},
        "parcel": 3,
        "options": object(),
        7: "x",
    }  # keys of a third-party bus may be of any type
    assert redactor.attributes(cast("Mapping[str, object]", payload)) == {"step_id": "a"}


def test_allowed_keys_can_be_added() -> None:
    assert Redactor(payload_allow=["parcel"]).attributes({"parcel": 3, "box": 4}) == {"parcel": 3}


def test_an_allowed_key_with_a_sensitive_name_stays_redacted() -> None:
    found = Redactor(payload_allow=["password", "pin", "secrets"]).attributes(
        {"password": "abc", "pin": 1234, "secrets": ["abc", "def"]}
    )
    assert found == {"password": REDACTED, "pin": REDACTED, "secrets": REDACTED}


def test_nested_mappings_become_dotted_names() -> None:
    payload: Mapping[str, object] = {
        "summary": {"counts": {"error": 3, "odd key": 1}, "total": 3, "internals": 1},
        "result": {"result": {"result": {"result": {"status": 1}}}},
    }
    assert redactor.attributes(payload) == {
        "summary.counts.error": 3,
        "summary.counts.odd key": 1,
        "summary.total": 3,
    }


def test_live_objects_are_left_out_without_calling_repr() -> None:
    assert redactor.attributes(
        {
            "result": Live(),
            "hooks": [Live()],
            "status": b"bytes",
            "name": {1, 2},
            "step": None,
            "phase": "x",
        }
    ) == {"phase": "x"}


def test_values_keep_their_types() -> None:
    payload = {
        "success": True,
        "duration": 1.5,
        "count": 3,
        "phase": "x",
        "hooks": ["a", "b"],
        "status": Kind.FAST,
        "type": Colour.RED,
        "attempt": Number.ONE,
    }
    found = redactor.attributes(payload)
    assert found == {
        "success": True,
        "duration": 1.5,
        "count": 3,
        "phase": "x",
        "hooks": ("a", "b"),
        "status": "fast",
        "type": "red",
        "attempt": 1,
    }
    assert [type(value) for value in found.values()] == [
        bool,
        float,
        int,
        str,
        tuple,
        str,
        str,
        int,
    ]


def test_plain_values_become_text() -> None:
    payload = {
        "timestamp": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "name": Path("a/b"),
        "task_id": UUID(int=1),
        "result": [1, None, "x", math.nan],
    }
    assert redactor.attributes(payload) == {
        "timestamp": "2026-01-02 03:04:05+00:00",
        "name": str(Path("a/b")),
        "task_id": str(UUID(int=1)),
        "result": '[1, null, "x", "nan"]',
    }


def test_exceptions_become_their_text() -> None:
    assert redactor.attributes(
        {"error": ValueError("password=abc1"), "exception": 1, "reason": Broken()}
    ) == {"error": f"ValueError: password={REDACTED}", "reason": "Broken"}


def test_numbers_that_no_attribute_can_hold_become_text() -> None:
    assert redactor.attributes(
        {"count": 2**70, "total": 10**5_000, "duration": math.inf, "number": -(2**63)}
    ) == {
        "count": str(2**70),
        "total": "a very large number",
        "duration": "inf",
        "number": -(2**63),
    }


def test_at_most_32_attributes_are_kept() -> None:
    assert (
        len(
            redactor.attributes(
                {"summary": {"counts": {f"k{number}": number for number in range(100)}}}
            )
        )
        == 32
    )


def test_strings_are_cut_at_1024_and_error_texts_at_4096_characters() -> None:
    found = redactor.attributes({"name": "é" * 5_000, "error": "e " * 5_000})
    assert [len(str(value)) for value in found.values()] == [1_024, 4_096]
    assert str(found["name"]).endswith("…")


def test_control_characters_and_colours_are_removed() -> None:
    assert (
        redactor.text("a\x00b\x07c\r\n\x1b[1;31mred\x1b[0m\x1b]0;title\x07 \x9b tab\t")
        == "a\ufffdb\ufffdc\r\nred \ufffd tab\t"
    )


def test_lone_surrogates_become_question_marks() -> None:
    assert redactor.text("a\ud800b") == "a?b"


# --- limits, redaction switched off, and patterns of the user ---------------------------------------------------------


@pytest.mark.parametrize("unit", ["token: [", 'api_key: ["', "- token: {", "curl -u a:x -u b:y "])
def test_a_cut_leaves_no_part_of_the_word_redacted(unit: str) -> None:
    whole = redactor.whole(unit * 30)
    assert "REDACTED" in whole
    for limit in range(100, 140):
        found = redactor.text(unit * 30, limit)
        assert limit - len("REDACTED") <= len(found) <= limit
        assert whole.startswith(found.removesuffix("…"))
        assert re.search(r"R(?!EDACTED)E?D?A?C?T?E?…", found) is None


def test_without_redaction_secrets_stay_and_the_limits_hold() -> None:
    off = Redactor(False)
    assert off.text("password=abc") == "password=abc"
    assert off.arguments(["--token", "abc"]) == ("--token", "abc")
    assert off.attributes({"message": "password=abc", "environment": "x"}) == {
        "message": "password=abc"
    }
    assert len(off.text("x" * 5_000)) == 1_024


def test_patterns_of_the_user_are_redacted() -> None:
    own = Redactor(patterns=["ACME-[0-9]{6}", "(?i)project falcon"])
    assert own.text("Project Falcon has ACME-123456") == f"{REDACTED} has {REDACTED}"


def test_an_invalid_pattern_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"redact_patterns: '\('"):
        Redactor(patterns=["("])


# --- properties -------------------------------------------------------------------------------------------------------

_parts = st.one_of(
    st.sampled_from(
        [
            "password",
            "token",
            "=",
            ":",
            ": ",
            '"',
            "'",
            "\\",
            '\\"',
            ",",
            ";",
            "&",
            "?",
            "@",
            "://",
            "https",
            "--",
            "-p ",
            "-u ",
            "Bearer ",
            "Authorization",
            "\n",
            "\\n",
            " ",
            "<",
            ">",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "Cookie",
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "eyJ",
            ".",
            "REDACTED",
            "…",
            "\x1b[",
            "\x1b",
            "mysql",
            "is",
            "secret",
        ]
    ),
    st.text(max_size=6),
    st.text(st.sampled_from("abcXYZ0189_-+/="), max_size=40),
)
_texts = st.lists(_parts, max_size=30).map("".join)


@settings(deadline=None, max_examples=examples(400))
@given(_texts, st.integers(1, 400))
def test_any_text_is_redacted_within_the_limit(text: str, limit: int) -> None:
    found = redactor.text(text, limit)
    assert len(found) <= limit
    found.encode()


@settings(deadline=None, max_examples=examples(400))
@given(_texts, st.sampled_from([20, 100, 1_024]))
def test_redaction_is_idempotent(text: str, limit: int) -> None:
    once = redactor.text(text, limit)
    assert redactor.text(once, limit) == once


_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), _texts, st.binary(max_size=4)
)
_payloads = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["message", "result", "summary", "counts", "other", "command"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["message", "result", "summary", "command", "hooks", "environment"]),
        _payloads,
    )
)
def test_any_payload_becomes_attributes_that_can_be_sent(payload: dict[str, object]) -> None:
    for value in redactor.attributes(payload).values():
        assert isinstance(value, bool | int | float | str) or (
            isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        )
        json.dumps(value, allow_nan=False)


@settings(deadline=None)
@given(st.lists(_texts, max_size=8))
def test_the_number_of_arguments_is_unchanged(arguments: list[str]) -> None:
    assert len(redactor.arguments(arguments)) == len(arguments)


@settings(deadline=None)
@given(st.sampled_from(sorted(SHAPED.values())), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_of_a_known_shape_is_redacted_in_random_text(
    secret: str, before: str, after: str
) -> None:
    found = redactor.text(f"{before} {secret} {after}", 100_000)
    assert_gone(secret, found)


HOSTILE = {
    "name": "a.-" * 5_000,
    "names": "password=" * 1_800,
    "words": "token" * 3_000,
    "blanks": "token " + " " * 15_000,
    "base64": "aB3/" * 4_000,
    "quotes": "'token'," * 1_800,
    "backslashes": "\\" * 16_000,
    "urls": "a://b:" * 2_500,
    "tokens": "eyJ." * 4_000,
    "keys": "-----END PRIVATE KEY-----\n" * 600,
    "elements": "<password" * 1_800,
    "escapes": "\x1b[" * 8_000,
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in HOSTILE.items()])
def test_hostile_text_of_16_kb_takes_less_than_a_second_of_cpu_time(text: str) -> None:
    """With a quadratic pattern a hostile text of 16 kB takes seconds to minutes of CPU time, otherwise milliseconds."""
    started_ns = time.process_time_ns()
    redactor.text(text, 16_384)
    assert time.process_time_ns() - started_ns < 1_000_000_000
