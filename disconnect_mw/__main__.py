"""The command line: `python -m disconnect_mw`, installed as `disconnect-mw` too."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence

from . import __doc__ as package_doc
from . import __version__
from ._check._options import add_arguments

_WITHOUT_A_COMMAND = """\
in your app (Starlette, FastAPI, or any ASGI app):
  from disconnect_mw import DisconnectMiddleware
  app.add_middleware(DisconnectMiddleware)
  app = DisconnectMiddleware(app, policy="cancel")

in the environment:
  DISCONNECT_MW_LOG=info uvicorn myapp:app
                        shows the middleware's line for each client that left
  DISCONNECT_MW_APP=myapp:app uvicorn disconnect_mw.app:app
                        installs it without a change of the code

in your tests (pytest):
  asgi_visit(app, HTTPClient("/report", leaves_after_messages=3))
                        on the measured behaviour of each server
  asgi_check(app)       has clients leave each of its paths in every way
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. `arguments` default to those of the process."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _check(options) if options.command == "check" else _demo(options.uvicorn)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as a shell reports it
    except BrokenPipeError:  # `| head`: nor may the interpreter's flush at exit complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _demo(uvicorn: str | None) -> int:
    from ._demo.run import DemoError, run  # other commands do without it

    try:
        return run(uvicorn, sys.stdout)
    except DemoError as error:
        print(textwrap.fill(f"disconnect-mw: {error}", 80, break_on_hyphens=False), file=sys.stderr)
        return 2


def _check(options: argparse.Namespace) -> int:
    from ._check._command import run  # likewise
    from ._check._options import CheckError

    try:
        return run(options, sys.stdout, sys.stderr)
    except CheckError as error:
        print(textwrap.fill(f"disconnect-mw: {error}", 80, break_on_hyphens=False), file=sys.stderr)
        for line in error.lines:
            print(f"  {line}", file=sys.stderr)
        return 2


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="disconnect-mw",
        description=package_doc,
        epilog=_WITHOUT_A_COMMAND,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"disconnect-mw {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="show what uvicorn logs when clients leave, without the middleware and with it",
        description="Starts two uvicorn servers on free loopback ports, one without the middleware and one with it. "
        "Clients leave both in the middle of five kinds of exchange: an upload, a WebSocket, a slow report, a model's "
        "answer that is cancelled, and server-sent events. The report shows both logs and compares what the apps did. "
        "It takes about 3 seconds. Exit status: 0 if the server with the middleware behaved as promised, 1 if it did "
        "not, 2 if the demo could not run.",
    )
    demo.add_argument(
        "--uvicorn",
        metavar="VERSION",
        help="the version of uvicorn to run, such as 0.28.0; it is installed in a throw-away environment",
    )
    check = commands.add_parser(
        "check",
        help="show what your own app does when its clients leave, without the middleware and with it",
        description="Starts the app under real servers, as it is and inside of the middleware, and has real clients "
        "leave each route: during the upload, before the response, after its first bytes, in the middle of a stream, "
        "before a WebSocket is accepted and while it is open. Exit status: 0 if nothing misbehaves with the "
        "middleware, 1 if something does, 2 if the check could not run.",
    )
    add_arguments(check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
