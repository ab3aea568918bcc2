"""`disconnect-mw check`: reads the options, runs the check, and writes the reports."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
from typing import TextIO

from .. import __version__
from ._evidence import Report
from ._options import CheckError, Options, read

_NEEDED = ("h11", "h2", "jinja2", "jsonschema", "rich", "wsproto")


def run(arguments: argparse.Namespace, output: TextIO, errors: TextIO) -> int:
    """Return the exit status: 0 nothing misbehaves with the middleware, 1 something does, 130 interrupted.

    Raises `CheckError` if the check cannot run, which is status 2.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckError(f'the check needs {", ".join(missing)}: pip install "disconnect-mw[check]"')
    options = read(arguments)
    report = Report(__version__, options.app, options.middleware)
    try:
        _play(options, report, errors)
    except KeyboardInterrupt:
        report.is_interrupted = True
    except CheckError as error:
        _write(options, report, 2, output)
        raise error
    status = 130 if report.is_interrupted else int(report.misbehaves)
    _write(options, report, status, output)
    return status


def _play(options: Options, report: Report, errors: TextIO) -> None:
    from ._run import check
    from ._terminal import display

    with display(errors, is_quiet=options.is_quiet) as shown:
        asyncio.run(check(options, report, shown))


def _write(options: Options, report: Report, status: int, output: TextIO) -> None:
    from ._html import to_html
    from ._json import to_json
    from ._terminal import Terminal

    if options.html is not None:
        options.html.write_text(to_html(report), encoding="utf-8")
    if options.json == "-":
        output.write(to_json(report, status))
        return
    if options.json is not None:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(to_json(report, status))
    if status != 2:
        Terminal(output, is_quiet=options.is_quiet).print(report)
