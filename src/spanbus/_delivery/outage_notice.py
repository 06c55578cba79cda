"""Outage notice: one line on stderr per outage."""

from __future__ import annotations

_reported: set[tuple[str, str]] = set()
"""Outages reported by this process, by destination and place of the records; shared by successive runtimes."""


def first_report(shown: str, kept_in: str) -> bool:
    """Whether this outage is new to the process; marks it as reported."""
    key = shown, kept_in
    if key in _reported:
        return False
    _reported.add(key)
    return True


def forget(shown: str, kept_in: str) -> None:
    """End the outage, so that the next one is reported."""
    _reported.discard((shown, kept_in))


class OutageNotice:
    """Reason and start (monotonic time) of a destination's outage, and whether it was reported."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._since = 0.0
        self._was_reported = False

    @property
    def on(self) -> bool:
        return self.reason is not None

    def failed(self, reason: str, now: float) -> None:
        """Begin an outage, or update its reason."""
        if self.reason is None:
            self._since = now
        self.reason = reason

    def over(self) -> bool:
        """End the outage; True when it had been reported."""
        was_reported, self._was_reported = self._was_reported, False
        self.reason = None
        return was_reported

    def lasts_s(self, now: float) -> float:
        return now - self._since if self.on else 0.0

    def claim(self) -> bool:
        """Claim the report of this outage; True once per outage."""
        if self.reason is None or self._was_reported:
            return False
        self._was_reported = True
        return True


def outage_notice(
    shown: str,
    reason: str,
    *,
    waiting: int,
    in_memory: int,
    disk_error: str,
    kept_in: str,
    remedy: str,
    at_the_end: bool,
) -> str:
    """Message about an outage: destination and reason, number and place of the waiting records, and remedy."""
    from spanbus._pluralize import pluralize

    parts: list[str] = []
    on_disk = waiting - in_memory
    if on_disk > 0 or not waiting:
        until = ";"
        if not at_the_end:
            are = "is" if on_disk == 1 else "are"
            until = f" so far and {are} sent when it does; after this program"
        records = pluralize(on_disk, "record waits", "records wait")
        parts.append(f"{records} in {kept_in}{until} {remedy}")
    refused = f", for the disk did not take them ({disk_error})" if disk_error else ""
    if in_memory and at_the_end:
        records = pluralize(
            in_memory,
            "record that was only in memory is lost",
            "records that were only in memory are lost",
        )
        parts.append(records + refused)
    elif in_memory:
        records = pluralize(
            in_memory,
            "record waits in memory alone; it is",
            "records wait in memory alone; they are",
        )
        parts.append(f"{records} lost when the program ends{refused}")
    return f"spanbus: {shown} does not take telemetry ({reason}); {'; '.join(parts)}"
