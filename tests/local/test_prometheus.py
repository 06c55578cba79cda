"""What a scraper reads: every series once, under labels that are its own."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from spanbus.local.prometheus import Exposition
from spanbus.local.series import Exemplar, Kind, Series


class Kept(list[Series]):
    def metric_series(self) -> list[Series]:
        return self


def series(name: str = "orders", kind: Kind = "counter", value: float = 1.0, **more: object) -> Series:
    attributes = {key: str(text) for key, text in more.items()}
    count, bounds, buckets = (2, (1.0,), (1, 1)) if kind == "histogram" else (0, (), ())
    return Series(name, kind, "", "", "shop", "", "one", attributes, value, count, bounds, buckets)


def lines(*shown: Series, accept: str = "application/openmetrics-text") -> list[str]:
    body, _ = Exposition(Kept(shown)).render(accept)
    text = body.decode()
    if accept:
        assert list(text_string_to_metric_families(text))
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", ["job", "instance", "le"])
def test_attributes_named_as_a_scrapers_own_labels_take_nothing_from_them(name: str) -> None:
    shown = lines(series(kind="histogram", **{name: "mine"}), series(kind="histogram"))
    assert len([line for line in shown if f'exported_{name}="mine"' in line]) == 4
    assert all('job="shop"' in line and 'instance="one"' in line for line in shown)
    assert len([line for line in shown if 'le="+Inf"' in line]) == 2


def test_series_that_are_one_to_a_scraper_are_shown_once() -> None:
    assert len(lines(series(region=""), series(), series("or-ders"), series("or_ders"))) == 2


def test_a_name_of_two_kinds_belongs_to_the_first() -> None:
    assert lines(series(kind="gauge", value=3.0), series(kind="counter")) == ['orders{instance="one",job="shop"} 3.0']


def test_a_histogram_of_negative_values_has_no_sum() -> None:
    shown = lines(series(kind="histogram", value=-1.0))
    assert [line.partition("{")[0] for line in shown] == ["orders_bucket", "orders_bucket"]


def test_exemplars_are_in_openmetrics_alone() -> None:
    one = series()._replace(exemplars=(Exemplar(1.0, 10**9, "a" * 32, "b" * 16),))
    assert "a" * 32 in lines(one)[0]
    assert "a" * 32 not in lines(one, accept="")[0]
