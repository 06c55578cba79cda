"""Dialect files: their keys, and one-line errors that name the key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from spanbus._reading.dialect_file import load, parse
from spanbus._reading.facts import Ended, Rank, Verb
from spanbus._reading.read import read
from spanbus.errors import DialectError

RULE = '[[rules]]\ntype = "a"\nlevel = "phase"\nverb = "end"\n'

MISTAKES = {
    "": "no [[rules]]",
    'extends = "crackerjak"': "extends must be one of spanbus, crackerjack, generic, not 'crackerjak'",
    '[[rule]]\ntype = "a"': "unknown key 'rule'; did you mean 'rules'?",
    'rules = "x"': "rules must be an array of tables",
    'rules = ["x"]': "rules[0]: a rule is a table",
    '[[rules]]\nlevel = "run"\nverb = "end"': "rules[0]: type is missing",
    RULE.replace(
        "phase", "faze"
    ): "level must be one of run, step, phase, strategy, hook, not 'faze'",
    RULE.replace("end", "strat"): "not 'strat'; did you mean 'start'?",
    RULE + RULE.replace('"a"', "3"): "rules[1]: type must be a string or a list of strings, not 3",
    RULE
    + 'result = "ok"': "result must be one of success, failure, timeout, cancellation, skip, error, not 'ok'",
    RULE + 'result_by_word = { done = "okay" }': "result_by_word.done must be one of",
    RULE + 'result_by_word = "done"': "result_by_word must be a table",
    RULE + 'name = "word:x"': "'word:x' must be word: and a number",
    RULE + 'name = "@faze"': "'@faze' is not one of @phase, @run_id",
    RULE
    + 'has = ["step_id", "@phaze"]': "'@phaze' is not one of @phase, @run_id; did you mean '@phase'?",
    RULE + 'lacks = "@run"': "'@run' is not one of @phase, @run_id; did you mean '@run_id'?",
    RULE + 'final = "yes"': "final must be true or false, not 'yes'",
    RULE + "finally = true": "unknown key 'finally'; did you mean 'final'?",
    "name = 7\n" + RULE: "name must be a string, not 7",
    "run_keys = [1]\n" + RULE: "run_keys must be a string or a list of strings, not [1]",
    '[[after]]\ntype = "a"\nlevel = "run"': "after[0]: verb is missing",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_with_file_and_key(text: str) -> None:
    with pytest.raises(DialectError) as caught:
        parse(tomllib.loads(text), where="mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert MISTAKES[text] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"x = ", b"\xff\xfe\x00", b"[[rules]\n"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(DialectError, match=r"mine\.toml: "):
        load(path)


def test_rules_go_before_and_after_rules_go_behind_those_of_the_extended_dialect() -> None:
    dialect = parse(
        tomllib.loads("""
        extends = "crackerjack"
        phase_keys = ["station"]

        [[rules]]
        type = "workflow.quality.started"
        has = "station"
        level = "step"
        verb = "start"
        name = "station"

        [[after]]
        type = "*"
        words = ["entered", "left"]
        level = "phase"
        verb = "event"
        name = ["station", "word:-2"]
    """),
        where="mine.toml",
    )

    def told(event_type: str, **payload: object) -> tuple[Verb, Rank, str | None]:
        fact = dialect.fact(read({"type": event_type, "payload": payload}))
        return fact.verb, fact.rank, fact.name

    assert told("workflow.quality.started", station="press") == (Verb.START, Rank.STEP, "press")
    assert told("workflow.quality.started", step_id="lint") == (Verb.START, Rank.PHASE, "lint")
    assert told("plant.press.left") == (Verb.EVENT, Rank.PHASE, "press")
    assert told("plant.note", station="press") == (Verb.EVENT, Rank.PHASE, "press")
    assert told("plant.note") == (Verb.EVENT, Rank.RUN, None)


@pytest.mark.parametrize("key", ["run_id", "job_id", "workflow_id"])
def test_workflow_failed_ends_the_run_named_by_any_id_key(
    key: str,
) -> None:
    generic = load("generic")
    failed = generic.fact(read({"type": "workflow.failed", "payload": {key: "r", "error": "no"}}))
    assert isinstance(failed, Ended)
    assert (failed.verb, failed.rank, failed.run_key, str(failed.result)) == (
        Verb.END,
        Rank.RUN,
        "r",
        "failure",
    )
    phase = generic.fact(
        read({"type": "workflow.failed", "payload": {key: "r", "step_id": "lint"}})
    )
    assert (phase.verb, phase.name) == (Verb.END, "lint")
    assert phase.rank is Rank.PHASE
