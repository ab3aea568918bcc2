"""The arguments of `disconnect-mw check`, and one sentence for each that is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from .. import _options as middleware_options
from ._places import SERVERS
from ._routes import WRITING_METHODS, Route

_METHODS = ("GET", "HEAD", "OPTIONS", *WRITING_METHODS)
_ROUTES = 40


class CheckError(Exception):
    """Why the check cannot run, in one sentence; `lines` are of a traceback or of a log."""

    def __init__(self, sentence: str, lines: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.lines = tuple(lines)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to check, and how."""

    app: str
    app_dir: str = "."
    is_factory: bool = False
    servers: tuple[tuple[str, str | None], ...] = ()  # name and version; none are all that are installed
    requirements: Path | None = None
    routes: tuple[Route, ...] = ()
    openapi: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    is_unsafe: bool = False
    most_routes: int = _ROUTES
    middleware: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_quick: bool = False
    patience: float | None = None
    is_quiet: bool = False
    html: Path | None = None
    json: str | None = None

    @property
    def seconds_to_end(self) -> float:
        """How long a handler may go on after its client has left before it counts as one that never ends.

        gunicorn's worker cancels the app 3 s after the departure.
        """
        return self.patience or (1.2 if self.is_quick else 4.0)

    @property
    def seconds_to_stay(self) -> float:
        """How long a client that stays reads at the most."""
        return 2.0 if self.is_quick else 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def several(*names: str, **options: Any) -> None:
        parser.add_argument(*names, action=_InOrder, dest="in_order", **options)

    parser.add_argument("app", help="the import path of the app, as module:app, or of a factory")
    parser.add_argument("--factory", action="store_true", help="it is a factory, which needs no argument")
    parser.add_argument("--app-dir", default=".", metavar="DIRECTORY", help="where the module is (default: here)")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME[==VERSION]",
        help=f"{', '.join(SERVERS)}; with a version it is installed in a throw-away environment (default: all that are "
        "installed here); several",
    )
    parser.add_argument(
        "--with-requirements",
        metavar="FILE",
        help="what to install in the throw-away environments (default: what is installed here, in the same versions)",
    )
    several("--path", metavar="PATH", help="a route to try; --method, --data and --header after it are for it; several")
    several("--websocket", metavar="PATH", help="a WebSocket to try; --say and --header after it are for it; several")
    several("--method", metavar="METHOD", help="of the path before it (default: POST where there is --data, else GET)")
    several("--data", metavar="BODY", help="the body for the path before it, or @FILE")
    several("--header", metavar="'NAME: VALUE'", help="for the path before it, or, before any path, for all")
    several("--say", metavar="TEXT", help="a message that the client of the WebSocket before it sends; several")
    parser.add_argument("--openapi", metavar="PATH", help="where the app serves its OpenAPI document")
    parser.add_argument(
        "--routes", type=int, default=_ROUTES, metavar="N", help=f"of the document the first N (default: {_ROUTES})"
    )
    parser.add_argument(
        "--unsafe", action="store_true", help="try routes that write, too: POST, PUT, PATCH and DELETE of the document"
    )
    parser.add_argument("--policy", metavar="POLICY", help="of the middleware: mute, finish, cancel or raise")
    parser.add_argument("--websocket-policy", metavar="POLICY", help="the same for WebSockets")
    parser.add_argument("--policy-for", action="append", default=[], metavar="PATTERN=POLICY", help="of paths; several")
    parser.add_argument("--grace", type=float, metavar="SECONDS", help="of the middleware")
    parser.add_argument("--send-timeout", type=float, metavar="SECONDS", help="of the middleware")
    parser.add_argument("--max-orphans", type=int, metavar="N", help="of the middleware")
    parser.add_argument("--quick", action="store_true", help="fewer departures, short waits, no measurement of memory")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="how long a handler may go on after its client has left (default: 4, with --quick 1.2)",
    )
    parser.add_argument("--quiet", action="store_true", help="print what misbehaves, and nothing else")
    parser.add_argument(
        "--html", metavar="FILE", help="write the report as one HTML file, with a timeline of each departure"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - is the standard output")


class _InOrder(argparse.Action):
    """Keeps options in the order in which they come, since some are for the path before them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*found, (option_string, values)])


def read(arguments: argparse.Namespace) -> Options:
    """Return the options. Raises `CheckError` for a bad one."""
    if not re.fullmatch(r"\w+(\.\w+)*(:\w+(\.\w+)*)?", arguments.app):
        raise CheckError(f"the app must be an import path such as module:app, not {arguments.app!r}")
    if not Path(arguments.app_dir).is_dir():
        raise CheckError(f"--app-dir must be a directory, and there is none at {arguments.app_dir!r}")
    routes, headers = _routes_of(arguments.in_order or [])
    if arguments.routes < 1:
        raise CheckError(f"--routes must be 1 or more, not {arguments.routes}")
    if arguments.patience is not None and not 0 < arguments.patience <= 600:
        raise CheckError(f"--patience must be more than 0 and at most 600 seconds, not {arguments.patience:g}")
    html = None if arguments.html is None else _writable("--html", arguments.html)
    if arguments.json not in (None, "-"):
        _writable("--json", arguments.json)
    requirements = None if arguments.with_requirements is None else Path(arguments.with_requirements)
    if requirements is not None and not requirements.is_file():
        raise CheckError(f"--with-requirements must be a file, and there is none at {str(requirements)!r}")
    return Options(
        arguments.app,
        str(Path(arguments.app_dir).resolve()),
        arguments.factory,
        tuple(map(_server, arguments.server)),
        requirements,
        routes,
        arguments.openapi,
        headers,
        arguments.unsafe,
        arguments.routes,
        _middleware_options(arguments),
        arguments.quick,
        arguments.patience,
        arguments.quiet,
        html,
        arguments.json,
    )


def _server(text: str) -> tuple[str, str | None]:
    found = re.fullmatch(r"([\w-]+)(?:==(\d+(?:\.\d+)*(?:(?:a|b|rc|\.post|\.dev)\d+)*))?", text)
    if found is None or found[1] not in SERVERS:
        raise CheckError(f"--server must be one of {', '.join(SERVERS)}, or such as uvicorn==0.28.0, not {text!r}")
    return found[1], found[2]


def _writable(option: str, text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise CheckError(f"{option} must be a file in a directory that there is, not {text!r}")
    return path


def _routes_of(in_order: list[tuple[str, str]]) -> tuple[tuple[Route, ...], tuple[tuple[str, str], ...]]:
    """The routes that are named, and the headers for all routes."""
    routes: list[Route] = []
    headers: list[tuple[str, str]] = []
    for option, value in in_order:
        if option in ("--path", "--websocket"):
            if not value.startswith("/"):
                raise CheckError(f"{option} must begin with a slash, not {value!r}: pass the path without the host")
            protocol = "websocket" if option == "--websocket" else "http"
            routes.append(Route(protocol, "GET", value, value.partition("?")[0], tuple(headers)))
        elif option == "--header" and not routes:
            headers.append(_header(value))
        elif not routes:
            raise CheckError(f"{option} is for the path before it: pass --path or --websocket first")
        else:
            routes[-1] = _with(routes[-1], option, value)
    return tuple(routes), tuple(headers)


def _with(route: Route, option: str, value: str) -> Route:
    if option == "--header":
        return dataclasses.replace(route, headers=(*route.headers, _header(value)))
    if (option == "--say") != (route.protocol == "websocket"):
        wanted = "--websocket" if option == "--say" else "--path"
        raise CheckError(f"{option} is for {wanted}, and stands behind {route.path}: put it behind the right one")
    if option == "--say":
        return dataclasses.replace(route, say=(*route.say, value))
    if option == "--method":
        if value.upper() not in _METHODS:
            raise CheckError(f"--method must be one of {', '.join(_METHODS)}, not {value!r}")
        return dataclasses.replace(route, method=value.upper())
    body = value.encode()
    if value.startswith("@"):
        try:
            body = Path(value[1:]).read_bytes()
        except OSError as error:
            raise CheckError(f"--data {value} cannot be read: {error.strerror}") from None
    headers = route.headers
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers = (*headers, ("content-type", "application/json" if _is_json(body) else "application/octet-stream"))
    return dataclasses.replace(
        route, body=body, headers=headers, method="POST" if route.method == "GET" else route.method
    )


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[!#$%&'*+.^`|~\w-]+", name) or "\n" in value or "\r" in value:
        raise CheckError(f"--header must be such as 'Authorization: Bearer …', not {text!r}")
    return name, value.strip()


def _middleware_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options for the middleware that are given; checked here, by its own rules."""
    found: dict[str, Any] = {}
    for name in ("policy", "websocket_policy", "grace", "send_timeout", "max_orphans"):
        value = getattr(arguments, name)
        if value is not None:
            found[name] = value
    mapping = {}
    for text in arguments.policy_for:
        pattern, equals, policy = text.rpartition("=")
        if not equals or policy not in get_args(middleware_options.Policy):
            raise CheckError(f"--policy-for must be such as '/v1/*=cancel', not {text!r}")
        mapping[pattern] = policy
    if mapping:
        found["policy_for"] = mapping
    checks: dict[str, Callable[[Any], object]] = {
        "policy": lambda value: middleware_options.check_policy("--policy", value),
        "websocket_policy": lambda value: middleware_options.check_policy("--websocket-policy", value),
        "grace": middleware_options.check_grace,
        "send_timeout": middleware_options.check_send_timeout,
        "max_orphans": middleware_options.check_max_orphans,
    }
    for name, value in found.items():
        try:
            checks.get(name, lambda value: None)(value)
        except (TypeError, ValueError) as error:
            raise CheckError(str(error)) from None
    return found
