"""spanbus metrics: the catalogue of everything that is emitted."""

from __future__ import annotations

from spanbus._cli.lazy import options


def command(as_json: options.Json = False) -> None:
    """List every span, event, attribute and metric that spanbus emits."""
    from spanbus._cli import console
    from spanbus._telemetry import catalogue

    if as_json:
        console.document(catalogue.document())
        return
    if not console.output().is_terminal:
        console.line(catalogue.markdown().rstrip())
        return
    _draw()


def _draw() -> None:
    """Print tables that fit the terminal."""
    from rich.table import Table

    from spanbus._cli.rich_console import rich_console
    from spanbus._semantics import definitions, names

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold", expand=False)
        for column in columns:
            made.add_column(column, overflow="fold")
        return made

    spans = table("Spans", "Level", "Name", "Kind", "")
    for span in definitions.SPANS:
        spans.add_row(span.level.value, span.name, span.kind, span.brief)
    metrics = table("Metrics", "Name", "Instrument", "Unit", "In Prometheus", "")
    for metric in names.METRICS:
        metrics.add_row(
            metric.name, metric.instrument, metric.unit, metric.prometheus, metric.brief
        )
    attributes = table("Attributes", "Name", "Type", "On", "")
    for attribute in definitions.ATTRIBUTES:
        attributes.add_row(attribute.name, attribute.kind, attribute.on, attribute.brief)
    screen = rich_console()
    for each in (spans, metrics, attributes):
        screen.print(each)
