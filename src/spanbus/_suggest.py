"""Suggestions for misspelled words."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is most similar to ``word``, None if none is similar."""
    import difflib  # lazy: only needed for errors

    found = difflib.get_close_matches(word, list(known), 1, cutoff)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str], *, quoted: bool = True) -> str:
    """Return ``; did you mean 'lint'?`` as the end of a message; empty if no known word is similar."""
    near = nearest(word, known)
    if near is None:
        return ""
    return f"; did you mean {near!r}?" if quoted else f"; did you mean {near}?"
