"""Durations in a workflow definition, and the error for invalid values."""

from __future__ import annotations

from spanbus._patterns import pattern
from spanbus.errors import DefinitionError

_DURATION = pattern(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m(?!s))?(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+(?:\.\d+)?)ms)?"
)


class UnusableDefinition(DefinitionError):
    """A workflow definition is invalid; ``path`` is the place in it, such as ``phases[2].needs``."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


def duration_s(value: object, where: str = "timeout") -> float:
    """Return seconds for a number of seconds or a text such as ``"10m"``, ``"1h30m"``, ``"250ms"``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    if (
        isinstance(value, str)
        and value
        and (match := _DURATION.fullmatch(value.replace(" ", ""))) is not None
        and any(match.groups())
    ):
        scale = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
        return sum(
            float(number) * scale[unit]
            for unit, number in match.groupdict().items()
            if number is not None
        )
    raise UnusableDefinition(
        f'must be seconds or a text such as "10m", "1h30m", "250ms", not {value!r}', where
    )
