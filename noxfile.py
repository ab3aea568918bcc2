"""`nox -l` lists what there is. Each session runs what `.ci/run` runs, in an environment of its own."""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "quick"]

PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session
def lint(session: nox.Session) -> None:
    """The linters and type checkers."""
    session.install("-e", ".[dev]")
    session.run(".ci/lint", external=True)


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that start no server, in half a minute. Arguments go to pytest: `nox -s quick -- -k grace`."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "4", "--quick", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The README's test command, on each Python. Arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", "-n", "4", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """The sdist and the wheel, in `dist/`, checked."""
    session.install("-e", ".[lint]")
    session.run(".ci/package", "dist", external=True)


@nox.session
def everything(session: nox.Session) -> None:
    """All that must hold before a change lands: `.ci/run`, about half an hour."""
    session.run(".ci/run", external=True)
