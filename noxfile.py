"""Run the tests on every installed Python; ``nox -l`` lists the sessions."""

from __future__ import annotations

import nox

PYTHONS = ("3.11", "3.12", "3.13", "3.14")

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]


def _install(session: nox.Session) -> None:
    session.install(
        "--require-hashes", "-r", "requirements/dev.txt", "-r", "requirements/brokers.txt"
    )
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests that need no server."""
    _install(session)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS)
def tour(session: nox.Session) -> None:
    """Only the tour: a minute on each Python."""
    _install(session)
    session.run("python", "-m", "pytest", "tests/tour", *session.posargs)
