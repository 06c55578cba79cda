"""Delivery counts as metrics of the catalogue."""

from __future__ import annotations

import time
from collections.abc import Mapping

from spanbus._delivery.statistics import DeliveryStatistics
from spanbus._semantics import names


def delivery_numbers(
    found: DeliveryStatistics,
) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
    """Attributes and value of each data point, by metric name."""
    signal, reason = names.DELIVERY_SIGNAL, names.DELIVERY_REASON
    age_s = max(0.0, time.time() - found.oldest_at_ns / 1e9) if found.oldest_at_ns else 0.0
    return {
        names.DELIVERY_SPOOLED: [({signal: key}, value) for key, value in found.spooled.items()],
        names.DELIVERY_DELIVERED: [
            ({signal: key}, value) for key, value in found.delivered.items()
        ],
        names.DELIVERY_REJECTED: [
            ({signal: key, reason: why}, value) for (key, why), value in found.rejected.items()
        ],
        names.DELIVERY_DROPPED_RECORDS: [
            ({signal: key, reason: why}, value) for (key, why), value in found.dropped.items()
        ],
        names.DELIVERY_SPOOL_SIZE: [({}, found.spool_bytes)],
        names.DELIVERY_OLDEST_AGE: [({}, age_s)],
    }
