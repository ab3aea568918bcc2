"""The course of a check: environments, servers, routes, clients; and the report, as far as it has come."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ._clients import HTTPClient, Refused
from ._environments import Environment, installed_servers, this_environment, throw_away_environment
from ._evidence import OnServer, Report, Result, Side, Stay
from ._judge import judge
from ._mcp import NoSession, is_endpoint, routes_of
from ._options import CheckError, Options
from ._play import Player, phases_of, ways_of
from ._routes import DOCUMENTS, Found, Route, read_document, routes_of_app, routes_of_document
from ._server import Server

_SECONDS_FOR_DOCUMENT = 20.0
_SECONDS_FOR_WARNINGS = 0.2
_ROUTES_AT_ONCE = 4
_SOME_BYTES = b"disconnect-mw check\n" * 50
_HOST = ("host", "localhost:8000")  # the same on both sides, whose answers are compared


class Display(Protocol):
    """Shows what is being tried."""

    def say(self, what: str) -> None: ...

    def expect(self, steps: int) -> None:
        """So many more steps are to come."""

    def step(self) -> None: ...


async def check(options: Options, report: Report, display: Display) -> None:
    """Play everything, and add what is found to `report`, also where this is cancelled in between.

    Raises `CheckError` where nothing can be tried at all.
    """
    began = time.monotonic()
    try:
        wanted = options.servers or tuple((name, None) for name in installed_servers())
        if not wanted:
            raise CheckError("no server is installed here: pass --server uvicorn, which installs one for the check")
        for name, version in wanted:
            on_server = OnServer(name, version or "")
            report.servers.append(on_server)
            try:
                with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as directory:
                    environment = await _environment(name, version, options, Path(directory), display)
                    await _check_on(environment, on_server, options, display)
            except CheckError as error:
                on_server.problem, on_server.lines = str(error), [*error.lines]
    finally:
        report.seconds = time.monotonic() - began
    if not report.has_run:
        problems = [server.problem for server in report.servers if server.problem]
        lines = next((server.lines for server in report.servers if server.lines), [])
        if not problems:
            lines = [f"{result.route.title}: {_why_not_left(result)}" for result in report.results]
        raise CheckError(problems[0] if problems else "no client could leave any route", lines)


def _why_not_left(result: Result) -> str:
    reasons = [one.not_played for one in result.wrapped.departures if one.not_played]
    return result.is_skipped or (reasons[0] if reasons else "not tried")


async def _environment(
    name: str, version: str | None, options: Options, directory: Path, display: Display
) -> Environment:
    here = installed_servers()
    is_here = name in here and version in (None, here.get(name))
    if is_here and options.requirements is None:
        return this_environment()
    wanted = name if version is None else f"{name} {version}"
    display.say(f"installing {wanted} in a throw-away environment")
    # In a thread, which ends by itself when the installer does: its process is in the foreground group, as this one.
    return await asyncio.to_thread(throw_away_environment, name, version, options.requirements, directory, lambda: None)


async def _check_on(environment: Environment, found: OnServer, options: Options, display: Display) -> None:
    """Play all routes on one server, bare and wrapped at the same time."""
    players = [
        Player(_maker(found.name, environment, options, is_wrapped=is_wrapped), options, display.say)
        for is_wrapped in (False, True)
    ]
    bare, wrapped = players
    try:
        display.say(f"starting {found.name}")
        starts = await asyncio.gather(*(player.start() for player in players), return_exceptions=True)
        for start in starts:
            if isinstance(start, BaseException):
                raise start
        found.facts = wrapped.server.facts
        found.version = found.facts["versions"].get(found.name, found.version)
        routes = await _routes(bare.server, options, found)
        found.results = [Result(route) for route in routes]
        display.expect(len(routes) if options.is_quick else 2 * len(routes))
        some = asyncio.Semaphore(_ROUTES_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for result in found.results:
                    group.create_task(_try(result, players, found, options, display, some))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        for result in found.results if not options.is_quick else ():
            if result.is_skipped is None:
                await asyncio.gather(
                    *(player.measure(result.route, side) for player, side in zip(players, result.sides, strict=True))
                )
            display.step()
        await asyncio.sleep(_SECONDS_FOR_WARNINGS)
    finally:
        for player in players:
            await player.stop()
        found.results = [result for result in found.results if result.bare.stays]
        for result in found.results:
            judge(result, found, options.middleware.get("policy"))
        found.bare_log, found.log = bare.log, wrapped.log


def _maker(name: str, environment: Environment, options: Options, *, is_wrapped: bool) -> Callable[[], Server]:
    settings = {
        "app": options.app,
        "app_dir": options.app_dir,
        "factory": options.is_factory,
        "is_wrapped": is_wrapped,
        "options": options.middleware,
    }
    return lambda: Server(name, environment, settings)


async def _try(
    result: Result, players: list[Player], found: OnServer, options: Options, display: Display, some: asyncio.Semaphore
) -> None:
    """Play one route: a client that stays, then those that leave, beside another that stays."""
    async with some:
        others = await _try_now(result, players, found, options)
        display.expect(len(others) if options.is_quick else 2 * len(others))
        for other in others:
            await _try_now(other, players, found, options)
            display.step()
    display.step()


async def _try_now(result: Result, players: list[Player], found: OnServer, options: Options) -> list[Result]:
    """Return what else is to be tried, by what the path has turned out to be."""
    sides, others = result.sides, list[Result]()
    await _stay(result, players)
    if result.bare.stays[0].status == 421:  # misdirected: by a name without a port (the MCP SDK)
        result.route = dataclasses.replace(result.route, headers=(*result.route.headers, _HOST))
        await _stay(result, players)
    if is_endpoint(result.route, result.bare.stays[0]):
        with contextlib.suppress(NoSession):
            speaks = await routes_of(players[0].server.port, result.route, is_unsafe=options.is_unsafe)
            found.notes += speaks.left_out
            result.route, *more = speaks.routes
            others = [Result(route) for route in more]
            found.results += others
            await _stay(result, players)
    elif result.bare.stays[0].kind == "text/event-stream":
        result.route = _as_event_source(result.route)
    await _offer_a_body(result, players)
    found.has_own = players[1].has_own
    result.needs_middleware = _asks_for_client(result.bare.stays[0]) and not _asks_for_client(result.wrapped.stays[0])
    result.is_skipped = _why_skipped(result.route, result.wrapped if result.needs_middleware else result.bare)
    if result.is_skipped is not None:
        return others
    played = list(zip(players, sides, strict=True))[int(result.needs_middleware) :]
    await asyncio.gather(*(_leave(player, side, result.route, options, found.name) for player, side in played))
    if options.is_quick:
        for side in sides:
            side.no_memory = "--quick does not measure it"
    return others


async def _stay(result: Result, players: list[Player]) -> None:
    stays = await asyncio.gather(*(player.stay(result.route) for player in players))
    for side, stay in zip(result.sides, stays, strict=True):
        side.stays[:] = [stay]


async def _offer_a_body(result: Result, players: list[Player]) -> None:
    """Send some bytes where no body is known, so that an upload can be cut; unless the answer is another one then."""
    before, stays = result.route, [[*side.stays] for side in result.sides]
    status = result.bare.stays[0].status
    if before.method not in ("POST", "PUT", "PATCH") or before.body is not None or status is None or status >= 300:
        return
    headers = (*before.headers, ("content-type", "application/octet-stream"))
    result.route = dataclasses.replace(before, headers=headers, body=_SOME_BYTES)
    await _stay(result, players)
    if result.bare.stays[0].status != status:
        result.route, result.bare.stays[:], result.wrapped.stays[:] = before, *stays


def _asks_for_client(stay: Stay) -> bool:
    """Whether the app has failed because no middleware stands around it."""
    return any("no DisconnectMiddleware stands around this app" in (line.exception or "") for line in stay.log)


def _as_event_source(route: Route) -> Route:
    """As a browser asks for server-sent events."""
    accepts = any(name.lower() == "accept" for name, _ in route.headers)
    headers = route.headers if accepts else (*route.headers, ("accept", "text/event-stream"))
    return dataclasses.replace(route, headers=headers, label=route.label or "server-sent events")


async def _leave(player: Player, side: Side, route: Route, options: Options, server: str) -> None:
    first = side.stays[0]

    async def stay() -> None:
        side.stays.append(await player.stay(route))

    async def depart(phase: str, way: str) -> None:
        side.departures.append(await player.depart(route, phase, way, first))

    wanted = [
        (phase, way) for phase in phases_of(route, first) for way in ways_of(route, server, is_quick=options.is_quick)
    ]
    await asyncio.gather(stay(), *(depart(*one) for one in wanted))
    side.departures.sort(key=lambda one: wanted.index((one.phase, one.way)))


def _why_skipped(route: Route, side: Side) -> str | None:
    """Why it makes no sense to leave a route, in one sentence, or None."""
    stay = side.stays[0]
    status = stay.status
    if route.protocol == "websocket":
        if status is not None and status != 101:
            return f"the handshake is refused with {status}: is the path right, and does it need a --header?"
        return None
    match status:
        case 404:
            return "there is no such path (404): look for a misspelling, or for a prefix"
        case 405:
            return f"the path does not take {route.method} (405): pass another --method"
        case 401 | 403:
            return f"it needs a login ({status}): pass --header 'Authorization: …'"
        case 400 | 422:
            return f"it refuses the request ({status}): pass --data, and --header, that it takes"
        case 301 | 302 | 303 | 307 | 308:
            where = next((value for name, value in stay.headers if name == "location"), "elsewhere")
            return f"it redirects ({status}) to {where}: name that path"
        case int() if status >= 500:
            reason = next((one.exception or one.text for one in stay.log), "nothing is logged")
            return f"it fails for a client that stays, too ({status}; {reason[:100]}): mend that first"
        case int() if status >= 400:
            return f"it answers {status} to a client that stays"
    return None


async def _routes(server: Server, options: Options, found: OnServer) -> list[Route]:
    """The routes to try. Raises `CheckError` where there are none."""
    if options.routes:
        return [*options.routes]
    documented = Found()
    paths = (options.openapi,) if options.openapi else DOCUMENTS
    for path in paths:
        status, content = await _get(server, path, options.headers)
        if status == 200:
            try:
                document = read_document(content)
                documented = await asyncio.to_thread(
                    routes_of_document, document, is_unsafe=options.is_unsafe, headers=options.headers
                )
            except ValueError as error:
                found.notes.append(f"{path}: {error}: name routes by --path")
                continue
            break
    else:
        if options.openapi:
            found.notes.append(f"{options.openapi} gives no OpenAPI document: --openapi must name the path that does")
    known = {*paths, *DOCUMENTS, "/docs", "/docs/oauth2-redirect", "/redoc", *documented.paths}
    listed = routes_of_app(await server.ask("routes"), options.headers, known)
    found.notes += [*documented.left_out, *listed.left_out]
    routes = [*documented.routes, *listed.routes]
    if len(routes) > options.most_routes:
        left = len(routes) - options.most_routes
        found.notes.append(
            f"of {len(routes)} routes the last {left} are not tried: --routes takes more, --path names some"
        )
    if not routes:
        raise CheckError("no route was found: name them by --path and --websocket", found.notes)
    return routes[: options.most_routes]


async def _get(server: Server, path: str, headers: tuple[tuple[str, str], ...]) -> tuple[int, bytes]:
    """Return status and body of a GET; 0 where there is no answer."""
    client = await HTTPClient.connect(server.port)
    body = b""
    try:
        async with asyncio.timeout(_SECONDS_FOR_DOCUMENT):
            await client.ask(Route("http", "GET", path, path, headers))
            status, _ = await client.head()
            while (part := await client.more()) is not None:
                body += part
    except (TimeoutError, Refused):
        return 0, b""
    finally:
        client.close()
    return status, body
