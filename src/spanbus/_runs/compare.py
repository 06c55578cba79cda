"""Comparison of runs: phases that are slower, newly failing, new or gone.

The baseline is one run or several. With several, the baseline duration of a phase is the median, and its noise the median
absolute deviation, scaled by 1.4826 to a standard deviation. A difference within three standard deviations is not reported,
however large its percentage.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from enum import StrEnum

from spanbus._named_tuple import NamedTuple
from spanbus._runs.summary import RunSummary, SpanSummary
from spanbus._semantics import FAILED_RESULTS, Result
from spanbus.errors import InputError

_RAN = FAILED_RESULTS | {Result.SUCCESS}


class Change(StrEnum):
    """Verdict on a phase against the baseline."""

    SAME = "same"
    SLOWER = "slower"
    FASTER = "faster"
    FAILING = "newly_failing"
    STILL_FAILING = "still_failing"
    FIXED = "fixed"
    NEW = "new"
    GONE = "gone"
    NOT_RUN = "not_run"
    """Skipped or cancelled now, but ran before."""


FAIL_ON_DEFAULT = frozenset({Change.SLOWER, Change.FAILING})
_CHANGES = {
    "slower": Change.SLOWER,
    "failing": Change.FAILING,
    "newly_failing": Change.FAILING,
    "new": Change.NEW,
    "gone": Change.GONE,
    "not_run": Change.NOT_RUN,
    "still_failing": Change.STILL_FAILING,
}


class Thresholds(NamedTuple):
    """Thresholds of a difference in duration. Share, seconds and the noise of the baseline must all be exceeded."""

    slower_by: float = 0.2
    """0.2 is 20 %."""
    at_least_s: float = 0.1
    noise_factor: float = 3.0


class PhaseChange(NamedTuple):
    """A phase in both runs. Durations are in seconds, None if it did not run."""

    name: str
    change: Change
    failing: bool
    """The phase fails in the candidate. A new phase that fails is both new and failing."""
    before_s: float | None
    after_s: float | None
    noise_s: float
    before: str | None
    after: str | None

    @property
    def ratio(self) -> float | None:
        """Duration relative to the baseline."""
        return self.after_s / self.before_s if self.before_s and self.after_s is not None else None

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "change": self.change.value,
            "before_s": self.before_s,
            "after_s": self.after_s,
            "ratio": round(self.ratio, 4) if self.ratio is not None else None,
            "noise_s": round(self.noise_s, 6),
            "before_result": self.before,
            "after_result": self.after,
        }


class Comparison(NamedTuple):
    """Result of a comparison; ``run`` is the change of the whole run."""

    baseline: tuple[str, ...]
    candidate: str
    workflow: str
    baseline_workflows: tuple[str, ...]
    """Distinct workflows of the baseline, in its order."""
    run: PhaseChange
    phases: tuple[PhaseChange, ...]

    @property
    def of_one_workflow(self) -> bool:
        """Whether all runs are of the same workflow."""
        return self.baseline_workflows == (self.workflow,)

    def found(self, fail_on: Iterable[Change]) -> list[PhaseChange]:
        """Return the changes selected by ``fail_on``. The whole run is included only if it fails and no phase does."""
        wanted = frozenset(fail_on)
        hits = [
            each
            for each in self.phases
            if each.change in wanted
            or (Change.FAILING in wanted and each.failing and each.change is Change.NEW)
        ]
        if not hits and self.run.change is Change.FAILING and Change.FAILING in wanted:
            return [self.run]
        return hits

    def document(self, fail_on: Iterable[Change] = FAIL_ON_DEFAULT) -> dict[str, object]:
        """Return the document that ``--json`` prints."""
        return {
            "baseline": list(self.baseline),
            "candidate": self.candidate,
            "workflow": self.workflow,
            "baseline_workflows": list(self.baseline_workflows),
            "run": self.run.document(),
            "phases": [each.document() for each in self.phases],
            "regressions": [each.name for each in self.found(fail_on)],
        }


def parse_fail_on(text: str) -> frozenset[Change]:
    """Parse a list of changes such as ``slower,failing``, or ``none``. Raises InputError for unknown words."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    if words == ["none"]:
        return frozenset()
    unknown = [word for word in words if word not in _CHANGES]
    if unknown or not words:
        raise InputError(
            f"--fail-on: {', '.join(unknown) or 'nothing'} is unknown; it takes {', '.join(sorted(_CHANGES))} or none"
        )
    return frozenset(_CHANGES[word] for word in words)


def parse_share(text: str) -> float:
    """Parse a share such as ``20%`` or ``0.2``. Raises InputError."""
    try:
        value = float(text.rstrip("% ")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InputError(f"--threshold: {text!r} is no share; write 20% or 0.2")
    return value


def compare(
    baseline: Sequence[RunSummary], candidate: RunSummary, thresholds: Thresholds | None = None
) -> Comparison:
    """Compare ``candidate`` with one or several runs, oldest first."""
    if not baseline:
        raise InputError("there is no run to compare with")
    limits = thresholds or Thresholds()
    before = [_phases(run) for run in baseline]
    after = _phases(candidate)
    order = list(after)
    order += [name for run in reversed(before) for name in run if name not in after]
    phases = [
        _change(name, [run[name] for run in before if name in run], after.get(name), limits)
        for name in dict.fromkeys(order)
    ]
    whole = _whole(baseline, candidate, limits)
    workflows = tuple(dict.fromkeys(run.workflow for run in baseline))
    return Comparison(
        tuple(run.run_id for run in baseline),
        candidate.run_id,
        candidate.workflow,
        workflows,
        whole,
        tuple(phases),
    )


def _phases(run: RunSummary) -> dict[str, SpanSummary]:
    """Return phases by name; a repeated name becomes ``name #2``."""
    found: dict[str, SpanSummary] = {}
    numbers: dict[str, int] = {}
    for phase in run.phases:
        name, number = phase.name, numbers.get(phase.name, 1)
        while name in found:
            number += 1
            name = f"{phase.name} #{number}"
        numbers[phase.name] = number
        found[name] = phase
    return found


def _whole(
    baseline: Sequence[RunSummary], candidate: RunSummary, limits: Thresholds
) -> PhaseChange:
    return _judge(
        candidate.workflow,
        [(run.result, run.duration_s) for run in baseline],
        (candidate.result, candidate.duration_s),
        limits,
    )


def _change(
    name: str, before: list[SpanSummary], after: SpanSummary | None, limits: Thresholds
) -> PhaseChange:
    return _judge(
        name,
        [(each.result, each.duration_s) for each in before],
        (after.result, after.duration_s) if after is not None else None,
        limits,
    )


def _judge(
    name: str, before: list[tuple[str, float]], after: tuple[str, float] | None, limits: Thresholds
) -> PhaseChange:
    """Compare (result, seconds) pairs. With an unknown result, as other senders may use, the phase counts as not run."""
    ran = [each for each in before if each[0] in _RAN]
    # Prefer durations of successes: a failure may have ended early.
    usual = [seconds for result, seconds in ran if result == Result.SUCCESS] or [
        seconds for _, seconds in ran
    ]
    before_s = None if not usual else usual[0] if len(usual) == 1 else statistics.median(usual)
    noise_s = (
        1.4826 * statistics.median([abs(seconds - before_s) for seconds in usual])
        if before_s is not None and len(usual) > 1
        else 0.0
    )
    failed_before = bool(ran) and ran[-1][0] in FAILED_RESULTS
    before_result = before[-1][0] if before else None
    failing = after is not None and after[0] in FAILED_RESULTS
    after_s = after[1] if after is not None and after[0] in _RAN else None

    if after is None:
        change = Change.GONE
    elif not before:
        change = Change.NEW
    elif failing:
        change = Change.STILL_FAILING if failed_before else Change.FAILING
    elif after_s is None:
        change = Change.NOT_RUN if ran else Change.SAME
    elif failed_before:
        change = Change.FIXED
    elif before_s is None:
        change = Change.SAME
    else:
        margin = max(before_s * limits.slower_by, limits.at_least_s, noise_s * limits.noise_factor)
        change = (
            Change.SLOWER
            if after_s - before_s > margin
            else Change.FASTER
            if before_s - after_s > margin
            else Change.SAME
        )
    return PhaseChange(
        name,
        change,
        failing,
        before_s,
        after_s,
        noise_s,
        before_result,
        after[0] if after is not None else None,
    )
