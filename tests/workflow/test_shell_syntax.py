"""Command lines: split like a shell does, and refused if they need a shell."""

from __future__ import annotations

import pytest

from spanbus._workflow.definition import command
from spanbus.errors import DefinitionError


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        ("echo x && exit 3", "&&"),
        ("a || b", "||"),
        ("a|b", "|"),
        ("a 2>&1", ">"),
        ("a >> log", ">>"),
        ("a < input", "<"),
        ("cd x; make", ";"),
        ("server &", "&"),
        ("echo $HOME/x", "$HOME"),
        ("echo ${HOME}", "${HOME}"),
        ("echo $1", "$1"),
        ("echo $(date)", "$("),
        ("echo `date`", "`"),
        ("FOO=1 make", "FOO="),
        ("make a\nmake b", "a second line"),
    ],
)
def test_a_command_that_needs_a_shell_is_refused_with_a_remedy(line: str, sign: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        command(line)
    assert f"{sign} needs a shell" in str(caught.value)
    assert "shell = true" in str(caught.value)
    assert command(line, shell=True).argv == (line,)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("sh -c 'a && b | c > d; echo $X'", ("sh", "-c", "a && b | c > d; echo $X")),
        ('grep "a|b" x', ("grep", "a|b", "x")),
        (r"find . -exec rm {} \;", ("find", ".", "-exec", "rm", "{}", ";")),
        ("curl http://x/?a=1&b=2", ("curl", "http://x/?a=1&b=2")),
        ("grep foo$ x", ("grep", "foo$", "x")),
        ("pytest -k 'a and not b' --x=1", ("pytest", "-k", "a and not b", "--x=1")),
        ("\ntrue\n", ("true",)),
    ],
)
def test_a_plain_command_is_split_as_a_shell_would(line: str, argv: tuple[str, ...]) -> None:
    assert command(line).argv == argv


@pytest.mark.parametrize(
    ("line", "arguments", "argv"),
    [
        ("pytest {args} -q", ["-k", "a b"], ("pytest", "-k", "a b", "-q")),
        ("pytest {args} -q", [], ("pytest", "-q")),
        ("pytest {args:tests -x} -q", [], ("pytest", "tests", "-x", "-q")),
        ("pytest {args:tests} -q", ["one"], ("pytest", "one", "-q")),
        ("tool --x={args}", ["a", "b"], ("tool", "--x=a b")),
    ],
)
def test_arguments_replace_the_placeholder_of_the_command(
    line: str, arguments: list[str], argv: tuple[str, ...]
) -> None:
    assert command(line).with_arguments(arguments).argv == argv
