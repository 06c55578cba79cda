"""The samplers of ``OTEL_TRACES_SAMPLER`` without the SDK, for commands whose trace context is needed before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from spanbus._workflow.identity import TraceContext

_LOW_64 = (1 << 64) - 1
_DEFAULT = "parentbased_always_on"
_KNOWN = ("always_on", "always_off", "traceidratio")


class EnvironmentSampler:
    """One of the six samplers of the specification, by name; an unknown name means the default."""

    __slots__ = ("_bound", "by_parent", "name", "ratio")

    def __init__(self, name: str = _DEFAULT, ratio: float = 1.0) -> None:
        root = name.removeprefix("parentbased_")
        self.by_parent = root != name or root not in _KNOWN
        self.name = root if root in _KNOWN else "always_on"
        self.ratio = ratio
        self._bound = round(ratio * (1 << 64))

    @classmethod
    def of(cls, env: Mapping[str, str]) -> EnvironmentSampler:
        """Return the sampler of ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG``; an invalid ratio counts as 1."""
        try:
            ratio = float(env.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1.0)
        except ValueError:
            ratio = 1.0
        name = env.get("OTEL_TRACES_SAMPLER", "").strip().lower()
        return cls(name or _DEFAULT, ratio if 0.0 <= ratio <= 1.0 else 1.0)

    def __str__(self) -> str:
        """Return the name as in ``OTEL_TRACES_SAMPLER``, with the ratio if the sampler uses one."""
        name = f"parentbased_{self.name}" if self.by_parent else self.name
        return f"{name} {self.ratio:g}" if self.name == "traceidratio" else name

    def keeps(self, trace_id: int, parent: TraceContext | None) -> bool:
        """Whether a span with this trace id and remote parent is sampled."""
        if self.by_parent and parent is not None:
            return parent.sampled
        if self.name == "always_off":
            return False
        return self.name == "always_on" or trace_id & _LOW_64 < self._bound
