"""Write the patterns of collector-config.yaml that find secrets in values of bytes.

    python tools/collector_bytes.py [--check]

The collector's redaction reads bytes as base64, in lists and maps too. In base64 a byte has one of three
positions in a group of four letters, so each shape of a secret has three spellings, which are too long to write by
hand. ``--check`` writes nothing: exit code 1 when the file is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

CONFIG: Final = Path(__file__).resolve().parents[1] / "collector-config.yaml"
BEGIN: Final = "      # bytes, which are read as base64: written by tools/collector_bytes.py\n"
END: Final = "    summary: silent\n"

Bytes = frozenset[int]
Shape = Sequence[Bytes]
"""The possible values of each byte of a text."""

ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ANY: Final[Bytes] = frozenset(range(256))
BLANK: Final[Bytes] = frozenset(b" \t\r\n")
SEEN: Final[Bytes] = frozenset(range(0x21, 0x7F))
WORD: Final[Bytes] = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
IN_AUTHORITY: Final[Bytes] = SEEN - frozenset(b"/")


def text(letters: str) -> list[Bytes]:
    """Exactly these letters."""
    return [frozenset(letter.encode()) for letter in letters]


def any_case(letters: str) -> list[Bytes]:
    """These letters, in either case."""
    return [frozenset((letter.lower() + letter.upper()).encode()) for letter in letters]


def one_of(letters: str) -> list[Bytes]:
    """One byte: one of these letters."""
    return [frozenset(letters.encode())]


_CREDENTIALS: Final = bytes(WORD).decode() + ".~+/="
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SHAPES: Final[Sequence[Shape]] = (
    *([*any_case(name), BLANK, *one_of(_CREDENTIALS) * 6] for name in ("bearer", "basic")),
    [*text("gh"), *one_of("pousr"), *text("_"), *[WORD] * 4],
    text("github_pat_"),
    text("glpat-"),
    [*text("AKIA"), *one_of(_UPPER) * 6],
    [*text("xox"), *one_of("abprs"), *text("-"), *[WORD] * 4],
    [*text("sk-"), *[WORD] * 8],
    *([*one_of("srp"), *text(f"k_{kind}_")] for kind in ("live", "test")),
    [*text("eyJ"), *[WORD] * 8],
    text("PRIVATE KEY-----"),
    *(
        [*any_case(name), *one_of("=:"), *[SEEN | BLANK] * 2]
        for name in ("password", "passwd", "pwd", "secret", "token", "apikey")
    ),
    [*any_case("api"), *one_of("_-"), *any_case("key"), *one_of("=:"), *[SEEN | BLANK] * 2],
    text("://:"),
)


def main() -> int:
    known = CONFIG.read_text(encoding="utf-8")
    before, _, rest = known.partition(BEGIN)
    old, end, after = rest.partition(END)
    made = "".join(f"      - '{pattern}'\n" for pattern in patterns())
    if old == made:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{CONFIG.name} is not as `python tools/collector_bytes.py` writes it")
        return 1
    CONFIG.write_text(f"{before}{BEGIN}{made}{end}{after}", encoding="utf-8")
    return 0


def patterns() -> list[str]:
    """Patterns that match a whole value of bytes, alone or in the JSON of a list or map, if it contains one of the shapes.

    Anchored, so that a text which is no base64 costs no more than its first letters.
    """
    shapes = "|".join([*(each for shape in SHAPES for each in spelled(shape)), address()])
    run = f"(?:{_LETTER}{{4}})*(?:{shapes}){_LETTER}*={{0,2}}"
    return [rf"\A{run}\z", f'"{run}"']


_LETTER: Final = "[A-Za-z0-9+/]"


def address() -> str:
    """A password in a URL: ``://``, a colon and an at sign, with no blank and no slash between them."""
    between = f"(?:{groups([IN_AUTHORITY] * 3, 0)})*"

    def any_of(shape: Shape) -> str:
        return f"(?:{'|'.join(spelled(shape, IN_AUTHORITY))})"

    begin, colon, at = (any_of(text(part)) for part in ("://", ":", "@"))
    short = any_of([*text("://"), IN_AUTHORITY, *text(":")])
    return f"(?:{begin}{between}{colon}|{short}){between}{at}"


def spelled(shape: Shape, around: Bytes = ANY) -> list[str]:
    """The three spellings of a shape, in whole groups of four letters; the last may be padded."""
    return [groups(shape, at, around) for at in range(3)]


def groups(shape: Shape, at: int, around: Bytes = ANY) -> str:
    """The letters of a shape that begins ``at`` bytes after the start of a group."""
    filled = [*[around] * at, *shape]
    used = len(filled)
    filled += [around] * (-used % 3)
    letters = [
        letter for first in range(0, len(filled), 3) for letter in group(filled[first : first + 3])
    ]
    if around is ANY:  # the text may end in the middle of a group
        letters = letters[: -(-used * 8 // 6)]
    return squeezed([of(letter) for letter in letters])


def group(three: Sequence[Bytes]) -> list[frozenset[str]]:
    """The possible letters at each of the four positions of a group."""
    first, second, third = three
    return [
        frozenset(ALPHABET[byte >> 2] for byte in first),
        frozenset(ALPHABET[(a & 3) << 4 | b >> 4] for a, b in product(first, second)),
        frozenset(ALPHABET[(b & 15) << 2 | c >> 6] for b, c in product(second, third)),
        frozenset(ALPHABET[byte & 63] for byte in third),
    ]


def of(letters: frozenset[str]) -> str:
    """The shortest character class for these letters."""
    if len(letters) == len(ALPHABET):
        return _LETTER
    if len(letters) == 1:
        return next(iter(letters)).replace("+", "[+]")
    return f"[{''.join(_ranges(sorted(letters)))}]"


def _ranges(letters: Sequence[str]) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(letters):
        end = at
        while end + 1 < len(letters) and ord(letters[end + 1]) == ord(letters[end]) + 1:
            end += 1
        first, last = letters[at], letters[end]
        found.append(first if at == end else f"{first}{'-' if end > at + 1 else ''}{last}")
        at = end + 1
    return found


def squeezed(letters: Sequence[str]) -> str:
    """Join classes; a repeated class gets a count."""
    found: list[str] = []
    at = 0
    while at < len(letters):
        end = at
        while end < len(letters) and letters[end] == letters[at]:
            end += 1
        number = end - at
        found.append(letters[at] if number == 1 else f"{letters[at]}{{{number}}}")
        at = end
    return "".join(found)


if __name__ == "__main__":
    sys.exit(main())
