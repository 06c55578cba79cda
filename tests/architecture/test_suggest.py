"""One "did you mean", everywhere."""

from __future__ import annotations

from pathlib import Path

import spanbus
from spanbus._suggest import did_you_mean, nearest


def test_the_nearest_word_is_named() -> None:
    assert did_you_mean("timeot", ["timeout", "needs"]) == "; did you mean 'timeout'?"
    assert did_you_mean("timeot", ["timeout", "needs"], quoted=False) == "; did you mean timeout?"
    assert nearest("timeot", {"timeout": 1}) == "timeout"


def test_nothing_is_said_where_nothing_is_near() -> None:
    assert did_you_mean("xyzzy", ["timeout", "needs"]) == ""
    assert did_you_mean("", []) == ""


def test_nothing_else_looks_for_near_words() -> None:
    sources = Path(spanbus.__file__).parent.rglob("*.py")
    found = [path.name for path in sources if "difflib" in path.read_text("utf-8")]
    assert found == ["_suggest.py"]
