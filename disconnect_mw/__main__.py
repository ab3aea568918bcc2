"""The command line: `python -m disconnect_mw`, also installed as `disconnect-mw`."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence

from . import __doc__ as package_doc
from . import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; `arguments` are those of the process unless given."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _demo(options.uvicorn)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as a shell has it
    except BrokenPipeError:  # `| head`: the interpreter's own flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _demo(uvicorn: str | None) -> int:
    from ._demo.run import DemoError, run  # not before it is asked for

    try:
        return run(uvicorn, sys.stdout)
    except DemoError as error:
        print(textwrap.fill(f"disconnect-mw: {error}", 80, break_on_hyphens=False), file=sys.stderr)
        return 2


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="disconnect-mw", description=package_doc)
    parser.add_argument("--version", action="version", version=f"disconnect-mw {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="see what uvicorn logs when clients leave, without the middleware and with it",
        description="Start two real uvicorn servers on free ports of the loopback, one without the middleware and one "
        "with it, have clients leave both in the middle of four kinds of exchange, and compare. The exit status is 0 "
        "if the server with the middleware behaved as promised, 1 if not, 2 if the demo could not run.",
    )
    demo.add_argument(
        "--uvicorn",
        metavar="VERSION",
        help="run this version of uvicorn (0.28.0, say), installed for the occasion in a throw-away environment",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
