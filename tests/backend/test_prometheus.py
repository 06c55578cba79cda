"""The Prometheus and OpenMetrics expositions: every series once, with unique labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric, exposition
from prometheus_client.openmetrics import exposition as openmetrics_exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_text_families
from prometheus_client.samples import Exemplar as LibraryExemplar
from prometheus_client.utils import floatToGoString
from thorough import examples

from spanbus._backend.prometheus import Exposition, labels, metric_name
from spanbus._store.series import Exemplar, Kind, Series


class Kept(list[Series]):
    def metric_series(self) -> list[Series]:
        return self


def series(
    name: str = "orders", kind: Kind = "counter", value: float = 1.0, **more: object
) -> Series:
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
def test_attributes_named_like_labels_of_the_scraper_are_renamed(name: str) -> None:
    shown = lines(series(kind="histogram", **{name: "mine"}), series(kind="histogram"))
    assert len([line for line in shown if f'exported_{name}="mine"' in line]) == 4
    assert all('job="shop"' in line and 'instance="one"' in line for line in shown)
    assert len([line for line in shown if 'le="+Inf"' in line]) == 2


def test_series_with_equal_labels_are_written_once() -> None:
    assert len(lines(series(region=""), series(), series("or-ders"), series("or_ders"))) == 2


def test_of_two_metrics_with_one_name_the_first_is_written() -> None:
    assert lines(series(kind="gauge", value=3.0), series(kind="counter")) == [
        'orders{instance="one",job="shop"} 3.0'
    ]


def test_a_histogram_of_negative_values_has_no_sum() -> None:
    shown = lines(series(kind="histogram", value=-1.0))
    assert [line.partition("{")[0] for line in shown] == ["orders_bucket", "orders_bucket"]


def test_exemplars_are_written_in_openmetrics_only() -> None:
    one = series()._replace(exemplars=(Exemplar(1.0, 10**9, "a" * 32, "b" * 16),))
    assert "a" * 32 in lines(one)[0]
    assert "a" * 32 not in lines(one, accept="")[0]


# --- against the library that others write it with --------------------------------------------------------------------------


class _Registry:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def by_the_library(shown: list[Series]) -> _Registry:
    """Return the same series written by prometheus_client."""
    made: dict[str, Metric] = {}
    for series in shown:
        name = metric_name(series.name, series.unit, series.kind)
        family = made.setdefault(name, Metric(name, series.description, series.kind))
        tags = labels(series)
        add = family.add_sample
        if series.kind == "gauge":
            add(name, tags, series.value)
        elif series.kind == "counter":
            add(f"{name}_total", tags, series.value, None, _theirs(series.exemplars))
        else:
            total, lower = 0, -math.inf
            for bound, count in zip((*series.bounds, math.inf), series.buckets, strict=True):
                total += count
                within = [each for each in series.exemplars if lower < each.value <= bound]
                tags_of = {**tags, "le": floatToGoString(bound)}
                add(f"{name}_bucket", tags_of, total, None, _theirs(within))
                lower = bound
            if series.value >= 0:
                add(f"{name}_count", tags, series.count)
                add(f"{name}_sum", tags, series.value)
    return _Registry(list(made.values()))


def _theirs(exemplars: Sequence[Exemplar]) -> LibraryExemplar | None:
    if not exemplars:
        return None
    found = exemplars[-1]
    ids = {"trace_id": found.trace_id, "span_id": found.span_id}
    return LibraryExemplar(ids, found.value, found.at_ns / 1e9)


_words = st.text(st.sampled_from(list('ab\\"\n{},=_é.Z9')), max_size=8)
_values = st.one_of(
    st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: value + 0.0),
    st.sampled_from([0.0, 1e6, 999_999.0, 123_456_789.0, 1e15, 1e16, 1e22, 1e-7]),
)
_ids = st.tuples(st.text("0123456789abcdef", min_size=32, max_size=32), st.just("1" * 16))


@st.composite
def all_series(draw: st.DrawFn) -> list[Series]:
    made: list[Series] = []
    for number in range(draw(st.integers(0, 6))):
        kind = draw(st.sampled_from(["counter", "gauge", "histogram"]))
        bounds = tuple(sorted(draw(st.sets(_values, max_size=4))))
        exemplars = tuple(
            Exemplar(draw(_values), draw(st.integers(0, 2**62)), *draw(_ids))
            for _ in range(draw(st.integers(0, 2)))
        )
        made.append(
            Series(
                f"metric.{kind}.{number}",
                kind,
                draw(st.sampled_from(["s", "1", "{thing}", "By", ""])),
                draw(_words),
                draw(_words),
                draw(_words),
                draw(_words),
                draw(
                    st.dictionaries(
                        st.sampled_from(["zone", "job", "le", "a.b", "9", "__x"]), _words
                    )
                ),
                abs(draw(_values)) if kind == "counter" else draw(_values),
                draw(st.integers(0, 2**53)),
                bounds if kind == "histogram" else (),
                tuple(draw(st.integers(0, 2**40)) for _ in range(len(bounds) + 1))
                if kind == "histogram"
                else (),
                exemplars,
            )
        )
    return made


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(all_series())
def test_the_text_equals_that_of_prometheus_client(shown: list[Series]) -> None:
    registry = by_the_library(shown)
    plain, _ = Exposition(Kept(shown)).render("")
    read = list(plain_text_families(plain.decode()))
    assert len(read) == len({each.name for each in shown})
    assert plain == exposition.generate_latest(registry)  # type: ignore[arg-type]
    opened, _ = Exposition(Kept(shown)).render("application/openmetrics-text")
    assert opened == openmetrics_exposition.generate_latest(registry)  # type: ignore[arg-type, no-untyped-call]


def test_ten_thousand_series_are_read_once_and_not_kept() -> None:
    class Once:
        """A source that yields series lazily, and asserts that earlier ones have been freed."""

        def __init__(self) -> None:
            self.alive = self.most_alive = 0

        def metric_series(self) -> Iterator[Series]:
            for number in range(10_000):
                series = Series("m", "gauge", "1", "", "s", "", "", Attributes(self, number), 1.0)
                yield series
                del series

    class Attributes(dict[str, str]):
        def __init__(self, of: Once, number: int) -> None:
            super().__init__(number=str(number))
            self._of = of
            of.alive += 1
            of.most_alive = max(of.most_alive, of.alive)

        def __del__(self) -> None:
            self._of.alive -= 1

    source = Once()
    body, _ = Exposition(source).render()
    assert body.count(b"\n") == 10_002
    assert source.most_alive <= 3
