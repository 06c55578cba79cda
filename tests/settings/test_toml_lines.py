"""Line numbers of TOML keys, in every notation of TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from spanbus._toml_lines import Lines, lines_of

EVERYTHING = '''\
# a comment = 1
top = "# no comment"
"quoted key" = 'single [brackets]'
dotted.key.path = 1   # two

[table]
inline = { a = 1, "b c" = [1, 2], d = { e = "}" } }
numbers = [
  1,   # ]
  2,

  3,
]
text = """
[not.a.table]
key = "value" \\"""
"""
raw = \'\'\'
x = 1\'\'\'\'
last = 2026-01-01T00:00:00Z

[ table . "sub.table" ]
deep = true

[[list]]
name = "first"
[[list.inner]]
x = 1
[[list.inner]]
x = 2
[list.table]
y = 1

[[list]]
name = "second"
[[list.inner]]
x = 3
'''


def paths(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[str, object]", value).items():
            yield from paths(inner, f"{path}.{key}" if path else key)
            yield f"{path}.{key}" if path else key
    elif isinstance(value, list):
        for index, inner in enumerate(cast("list[object]", value)):
            yield from paths(inner, f"{path}[{index}]")
            yield f"{path}[{index}]"


def test_each_way_of_writing_a_key_has_its_line() -> None:
    lines = lines_of(EVERYTHING)
    at = {
        name: EVERYTHING.split("\n")[lines[name] - 1] for name in paths(tomllib.loads(EVERYTHING))
    }
    assert at["top"].startswith("top")
    assert at["dotted.key.path"].startswith("dotted")
    assert at["table.inline.d.e"].startswith("inline")
    assert at["table.inline.b c[1]"].startswith("inline")
    assert at["table.numbers[2]"] == "  3,"
    assert at["table.last"].startswith("last")
    assert at["table.sub.table.deep"].startswith("deep")
    assert at["list[0].inner[1].x"] == "x = 2"
    assert at["list[0].table.y"] == "y = 1"
    assert at["list[1].inner[0].x"] == "x = 3"


def test_windows_line_ends_count_once() -> None:
    assert lines_of("a = 1\r\nb = [\r\n 2]\r\n")["b[0]"] == 3


def test_a_missing_key_has_the_line_of_its_parent() -> None:
    lines = Lines("[a]\nb = [{ c = 1 }]\n")
    assert lines.near("a.b[0].missing") == 2
    assert lines.near("a.missing.more") == 1
    assert lines.near("elsewhere") is None


_keys = st.text(st.sampled_from("abz09-_ .\"'#=[]{}\\\n\té"), min_size=1, max_size=5)
_scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.text(st.sampled_from("ab\"'#=[]{}\\\n,.é"), max_size=8),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=8,
)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return (
            "{ "
            + ", ".join(
                f"{json.dumps(key)} = {_toml(inner)}"
                for key, inner in cast("Mapping[str, object]", value).items()
            )
            + " }"
        )
    if isinstance(value, list):
        return (
            "["
            + "".join(f"\n  {_toml(inner)}, # ] , }}" for inner in cast("list[object]", value))
            + "\n]"
        )
    return json.dumps(value)


@given(st.dictionaries(_keys, _values, max_size=4), st.dictionaries(_keys, _values, max_size=3))
def test_every_key_of_any_document_has_a_line_within_it(
    top: dict[str, object], table: dict[str, object]
) -> None:
    text = "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in top.items())
    text += '["the table"]\n' + "".join(
        f"{json.dumps(key)} = {_toml(value)}\n" for key, value in table.items()
    )
    if "the table" in top:
        return
    document = tomllib.loads(text)
    lines = lines_of(text)
    last = text.count("\n")
    for path in paths(document):
        assert 1 <= lines[path] <= last
