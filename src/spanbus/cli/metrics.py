"""spanbus metrics: the catalogue of everything that is emitted."""

from __future__ import annotations

from spanbus.cli.options import Json


def command(as_json: Json = False) -> None:
    """List every span, event, attribute and metric that spanbus emits."""
    from spanbus.cli import console
    from spanbus.telemetry import catalogue

    if as_json:
        console.document(catalogue.document())
        return
    screen = console.output()
    if screen.is_terminal:
        from rich.markdown import Markdown

        screen.print(Markdown(catalogue.markdown()))
    else:
        console.say(catalogue.markdown().rstrip())
