"""The nearest known word to one that is not known."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like ``word``, None where none is."""
    import difflib  # only where a word is wrong

    found = difflib.get_close_matches(word, list(known), 1, cutoff)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], *, quoted: bool = True) -> str:
    """``; did you mean 'lint'?`` to be put behind a message, empty where nothing is near."""
    near = nearest(word, known)
    if near is None:
        return ""
    return f"; did you mean {near!r}?" if quoted else f"; did you mean {near}?"
