"""Plays clients that stay and clients that leave on one side: an app under one server, bare or wrapped."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ._clients import Client, Refused, WebSocketClient, client_of
from ._evidence import PHASES, Departure, Logged, Mark, Memory, Side, Stay
from ._mcp import NoSession, close_session, open_session
from ._options import CheckError, Options
from ._routes import Route
from ._server import Seen, Server, ServerLost

_AT_ONCE = 6
"""Clients of one side that are played at the same time."""

_SECONDS_TO_BEGIN = 10.0
_SECONDS_TO_BEGIN_UPLOAD = 1.5  # a server that takes the whole upload first does not call the app at all
_SECONDS_TO_SETTLE = 1.0
_SECONDS_AFTER_CANCEL = 1.0
_TURNS, _SECONDS_OF_A_TURN = 6, 0.05
_SECONDS_TO_CLOSE = 1.0
_SECONDS_FOR_DAPHNE = 1.2  # it checks once a second for what apps have raised
_BYTES_TO_STAY = 1 << 20
_PARTS = 5
_SECONDS_OF_PARTS = 1.5
_MESSAGES_TO_STAY = 20
_SECONDS_OF_SILENCE = 1.0
_STREAMED = 0.03
"""Seconds between the first and the last message of a response from which on a client can leave between them."""

_DEPARTURES = 100
_BATCH = 20
_LEAST = 60  # so that there are three steps to compare
_SECONDS_FOR_MEMORY = 3.0
GROWTH = 2048
"""Bytes per departure from which on memory counts as growing."""

T = TypeVar("T")
Progress = Callable[[str], None]


class Player:
    """Plays one side. `make` starts its server anew, where an app has blocked or ended it."""

    def __init__(self, make: Callable[[], Server], options: Options, show: Progress) -> None:
        self._make = make
        self._options = options
        self._show = show
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._alone = asyncio.Lock()
        self.log: list[Logged] = []  # of servers that have ended
        self.has_own = False  # the app installs the middleware itself

    async def _surely(self, play: Callable[[], Awaitable[T]]) -> T:
        """Play something beside others; if the server is lost meanwhile, once more on a new one, and alone.

        Raises `ServerLost` if it is lost then, too: this is what does it.
        """
        async with self._slots:
            server = self.server
            try:
                return await play()
            except (ServerLost, OSError):
                pass
        async with self._alone, contextlib.AsyncExitStack() as stack:
            for _ in range(_AT_ONCE):
                await stack.enter_async_context(self._slots)
            await self._start_anew(server)
            server = self.server
            try:
                return await play()
            except OSError:
                await self._start_anew(server)
                raise ServerLost("ended") from None
            except ServerLost:
                await self._start_anew(server)
                raise

    async def start(self) -> Server:
        self.server = await self._make().__aenter__()
        self.server.log.clear()  # what the app logs as it starts is of no departure
        return self.server

    async def stop(self) -> None:
        server = getattr(self, "server", None)
        if server is not None:
            self.log += map(logged, server.log)
            del self.server
            await server.__aexit__()

    async def _start_anew(self, lost: Server) -> None:
        if self.server is lost:
            await self.stop()
            await self.start()

    async def _in_session(self, route: Route, play: Callable[[Route], Awaitable[T]]) -> T:
        """Play a client of a route in a session of its own, if the route has sessions."""
        if not route.is_mcp:
            return await play(route)
        port = self.server.port
        try:
            session = await open_session(port, route)
        except NoSession:  # it began one before
            raise ServerLost("blocked") from None
        try:
            return await play(dataclasses.replace(route, headers=(*route.headers, *session)))
        finally:
            await close_session(port, route, session)

    # Clients that stay

    async def stay(self, route: Route) -> Stay:
        """Play a client that stays, for some seconds where the answer has no end."""
        try:
            return await self._surely(lambda: self._in_session(route, self._stay))
        except ServerLost as lost:
            return Stay(problem=_words_for(lost))

    async def _stay(self, route: Route) -> Stay:
        server, found = self.server, Stay()
        client: Any = await self._connect(route, "FIN")
        seen = server.expect(client.port)
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._options.seconds_to_stay):
                await client.ask(route)
                found.status, found.headers = await client.head()
                if isinstance(client, WebSocketClient):
                    await self._converse(client, route, found)
                else:
                    await self._read(client, found)
        except TimeoutError:
            if found.status is None:
                found.problem = f"it does not answer within {self._options.seconds_to_stay:.0f} s"
        except Refused as refused:
            found.problem = str(refused)
        found.seconds = time.monotonic() - began
        self.has_own = self.has_own or server.has_own
        with contextlib.suppress(TimeoutError, Refused):
            async with asyncio.timeout(_SECONDS_TO_CLOSE):
                await client.leave("close frame" if isinstance(client, WebSocketClient) else "FIN")
        client.close()
        await self._wait(seen.ended, _SECONDS_TO_SETTLE if found.is_whole else self._options.seconds_to_end)
        record = await self._settled(server, client.port, seen, Stay())
        if record is not None:
            found.began = None if record["status_at"] is None else record["status_at"] - began
            found.sends = [at - began for at, _, kind, size in record["messages"] if "body" in kind and size]
            found.tasks, found.connections = len(record["tasks"]), record["connections"]
            found.files = [(path, size) for path, size in record["files"]]
            if record["ended"] is None:
                await server.cancel(client.port)
        found.log = [*map(logged, seen.log)] if found.is_whole or found.problem else []
        server.forget(client.port)
        return found

    async def _read(self, client: Client, found: Stay) -> None:
        """Read to the end; of an answer that comes in many parts for a while, of a long one its first mebibyte."""
        parts, limit = 0, time.monotonic() + _SECONDS_OF_PARTS
        while len(found.body) < _BYTES_TO_STAY and (parts < _PARTS or time.monotonic() < limit):
            part = await client.more()
            if part is None:
                found.is_whole = True
                return
            found.body += part
            parts += 1

    async def _converse(self, client: WebSocketClient, route: Route, found: Stay) -> None:
        for text in route.say:
            await client.say(text)
        with contextlib.suppress(TimeoutError):
            while len(found.messages) < _MESSAGES_TO_STAY and not found.is_whole:
                async with asyncio.timeout(_SECONDS_OF_SILENCE):
                    message = await client.more()
                found.is_whole = message is None
                found.messages += [] if message is None else [message]
        found.is_whole = True

    # Clients that leave

    async def depart(self, route: Route, phase: str, way: str, stay: Stay) -> Departure:
        """Play a client that leaves."""
        self._show(f"{route.title}: {way} {PHASES[phase]}")
        try:
            return await self._surely(lambda: self._depart_in_time(route, phase, way, stay))
        except ServerLost as lost:
            return Departure(phase, way, lost=lost.reason)

    async def _depart_in_time(self, route: Route, phase: str, way: str, stay: Stay) -> Departure:
        """Play it as soon as the app has begun; where that is too late, right behind the request."""
        found = await self._in_session(route, lambda route: self._depart(route, phase, way, stay))
        if not found.not_played or phase not in ("before response", "before accept") or found.seconds is None:
            return found
        again = await self._in_session(route, lambda route: self._depart(route, phase, way, stay, is_at_once=True))
        return found if again.not_played else again

    async def _depart(self, route: Route, phase: str, way: str, stay: Stay, *, is_at_once: bool = False) -> Departure:
        server = self.server
        client: Any = await self._connect(route, way)
        seen = server.expect(client.port)
        found = Departure(phase, way)
        began = time.monotonic()
        marks = [Mark(0.0, "client", "asks")]
        try:
            async with asyncio.timeout(_SECONDS_TO_BEGIN + self._options.seconds_to_stay):
                found.not_played = await self._reach(client, route, phase, seen, stay, is_at_once=is_at_once)
        except TimeoutError:
            found.not_played = "the server did not come so far in time"
        except Refused as refused:
            found.not_played = f"{refused}"
        left_at = time.monotonic()
        try:
            async with asyncio.timeout(_SECONDS_TO_CLOSE):
                await client.leave(way)
        except (TimeoutError, Refused):
            client.close()
        marks.append(Mark(left_at - began, "client", f"leaves ({way})"))
        try:
            if not await self._has_begun(server, seen):
                found.not_played = found.not_played or "the server did not call the app for a client that had left"
                return found
            await self._wait(seen.ended, self._seconds_to_end(stay))
            record = await self._settled(server, client.port, seen, stay)
            found.log = [*map(logged, seen.log)]
            _draw(record, began, marks)
            await self._judge_record(server, client.port, seen, record, found, left_at)
        finally:
            client.close()
            found.timeline = sorted(marks, key=lambda mark: mark.at)
            server.forget(client.port)
        if found.not_played is None:
            found.not_played = self._why_too_late(record, phase, left_at, route)
        return found

    async def _has_begun(self, server: Server, seen: Seen) -> bool:
        """Whether the app is called for a client that may have left before that: the server has some turns for it."""
        turns = 0
        while turns < _TURNS and not await self._wait(seen.begun, _SECONDS_OF_A_TURN):
            await server.ask("ping")
            turns += 1
        return seen.begun.is_set()

    async def _judge_record(
        self, server: Server, port: int, seen: Seen, record: dict[str, Any], found: Departure, left_at: float
    ) -> None:
        found.sends = sum(at > left_at for at in record["sends"])
        if found.sends == len(record["sends"]):
            found.sends = record["sent"]
        found.told_after = None if record["told_at"] is None else max(record["told_at"] - left_at, 0.0)
        found.status = record["status"]
        found.how, found.connections = record["how"], record["connections"]
        found.tasks = record["tasks"]
        found.files = [(path, size) for path, size in record["files"]]
        if record["raised"] is not None:
            found.raised = _words_for_exception(record["raised"])
        found.is_half_taken = (
            found.phase == "upload"
            and not record["has_whole_body"]
            and (record["bytes_received"] > 0 or record["told_at"] is not None)
            and record["status"] is not None
            and record["status"] < 300
        )
        if record["ended"] is not None:
            found.seconds = max(record["ended"] - left_at, 0.0)
            return
        awaits = await server.ask("where", port=port)
        found.place, found.source, found.in_thread = awaits["place"], awaits["source"], awaits["in_thread"]
        if not found.in_thread:
            await server.cancel(port)
            found.is_stubborn = not await self._wait(seen.ended, _SECONDS_AFTER_CANCEL)
            for _ in range(5 if found.is_stubborn else 0):  # so that it does not go on for the others
                await server.cancel(port)

    async def _reach(
        self, client: Any, route: Route, phase: str, seen: Seen, stay: Stay, *, is_at_once: bool = False
    ) -> str | None:
        """Have the client come to where it is to leave. Return why it cannot, or None."""
        await client.ask(route, is_cut=phase == "upload")
        if phase == "upload":
            has_begun = await self._wait(seen.begun, _SECONDS_TO_BEGIN_UPLOAD)
            buffered = "the server takes the whole upload before it calls the app, so a cut one never reaches it"
            return None if has_begun else buffered
        if phase in ("before response", "before accept"):
            if not is_at_once:
                await self._wait(seen.begun, _SECONDS_TO_BEGIN)
            return None
        await client.head()
        if isinstance(client, WebSocketClient):
            for text in route.say:
                await client.say(text)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SECONDS_OF_SILENCE / 2):
                    await client.more()
            return "the app closed it before a client could leave" if seen.ended.is_set() else None
        if phase == "first bytes" and stay.is_silent_for(_STREAMED):
            return None  # before them: they are long in coming
        for _ in range(1 if phase == "first bytes" else 3):
            if await client.more() is None:
                return "the response was over before a client could leave"
        return None

    def _why_too_late(self, record: Any, phase: str, left_at: float, route: Route) -> str | None:
        """The client may have left in time and the app have been quicker: a fact, and no fault."""
        begun_at = record["status_at"]
        if phase == "before accept":
            begun_at = next((at for at, who, kind, _ in record["messages"] if kind == "websocket.accept"), None)
        if phase in ("before response", "before accept") and begun_at is not None and begun_at <= left_at:
            return f"it {'accepts' if route.protocol == 'websocket' else 'answers'} before a client can leave"
        if record["ended"] is not None and record["ended"] <= left_at:
            return "it was over before a client could leave"
        return None

    def _seconds_to_end(self, stay: Stay) -> float:
        """A handler that ends by itself may do so: as long as it takes for a client that stays, and a second."""
        by_itself = stay.seconds + 1.0 if stay.is_whole else 0.0
        return max(self._options.seconds_to_end, min(by_itself, 2 * self._options.seconds_to_end))

    async def _settled(self, server: Server, port: int, seen: Seen, stay: Stay) -> Any:
        """Return the record, once the exchange has left no more than it leaves for a client that stays."""
        if server.name == "daphne":
            await asyncio.sleep(_SECONDS_FOR_DAPHNE)
        limit = time.monotonic() + _SECONDS_TO_SETTLE
        pause = 0.03
        while True:
            record = await server.ask("record", port=port)
            is_clean = record is None or (
                len(record["tasks"]) <= stay.tasks and record["connections"] <= stay.connections
            )
            if is_clean or not seen.ended.is_set() or time.monotonic() > limit:
                return record
            await asyncio.sleep(pause)
            pause *= 2

    async def _connect(self, route: Route, way: str) -> Client:
        return await client_of(route, way).connect(self.server.port)

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    # Memory

    async def measure(self, route: Route, side: Side) -> None:
        """Have a hundred clients leave in the last phase that can be played, and see what stays in memory."""
        played = [one for one in side.departures if not one.not_played and one.way == "FIN"]
        if not played:
            side.no_memory = "no client could leave"
            return
        if any(one.seconds is None or one.connections or one.lost for one in played):
            side.no_memory = "its handlers do not end, or keep a connection"
            return
        if any(len(one.tasks) > side.stays[0].tasks for one in played):
            side.no_memory = "the tasks that are left keep theirs"
            return
        if self.server.name == "gunicorn":
            side.no_memory = "gunicorn keeps what belongs to a client for some seconds"
            return
        phase = played[-1].phase
        self._show(f"{route.title}: memory, {_DEPARTURES} departures {phase}")
        try:
            first = side.stays[0]
            slope, departures, place = await self._slope(
                lambda: self._in_session(route, lambda route: self._leave_once(route, phase, first))
            )
            side.memory = Memory(phase, departures, slope, place)
            if slope > GROWTH:
                again, _, _ = await self._slope(lambda: self._in_session(route, self._stay_once))
                side.memory.grows_anyway = again > slope / 2
        except (ServerLost, OSError, CheckError):
            side.no_memory = "the server was lost meanwhile"
            await self._start_anew(self.server)

    async def _slope(self, play: Callable[[], Awaitable[None]]) -> tuple[float, int, str | None]:
        """Return bytes per client, how many were played, and where most of the growth was allocated."""
        server = self.server
        await server.ask("measure", on=True)
        points: list[tuple[int, float]] = []
        began, played, place = time.monotonic(), 0, None
        try:
            is_last = False
            while not is_last:
                await asyncio.gather(*(play() for _ in range(_BATCH)))
                played += _BATCH
                is_late = time.monotonic() - began > _SECONDS_FOR_MEMORY
                is_last = played >= _DEPARTURES or (is_late and played > _LEAST)
                found = await server.ask("memory", mark=played == _BATCH, compare=is_last)
                points.append((played, found["bytes"]))
                place = found["place"]
        finally:
            await server.ask("measure", on=False)
        return slope_of(points[1:]), played, place

    async def _leave_once(self, route: Route, phase: str, stay: Stay) -> None:
        client: Any = await self._connect(route, "FIN")
        seen = self.server.expect(client.port)
        try:
            with contextlib.suppress(TimeoutError, Refused):
                async with asyncio.timeout(_SECONDS_TO_BEGIN):
                    await self._reach(client, route, phase, seen, stay)
            await client.leave("FIN")
        finally:
            client.close()
        await self._wait(seen.ended, 2 * self._options.seconds_to_end)
        self.server.forget(client.port)

    async def _stay_once(self, route: Route) -> None:
        client: Any = await self._connect(route, "FIN")
        seen = self.server.expect(client.port)
        try:
            with contextlib.suppress(TimeoutError, Refused):
                async with asyncio.timeout(self._options.seconds_to_stay):
                    await client.ask(route)
                    await client.head()
                    while await client.more() is not None:
                        pass
        finally:
            client.close()
        await self._wait(seen.ended, self._options.seconds_to_end)
        self.server.forget(client.port)


def phases_of(route: Route, stay: Stay) -> list[str]:
    """The phases in which a client can leave, by what a client that stayed has got."""
    if route.protocol == "websocket":
        return ["before accept", "open"]
    phases = ["upload"] if route.body and len(route.body) > 1 else []
    phases.append("before response")
    if stay.status is None:
        return phases
    is_long = len(stay.body) > 8 * 65536
    span = stay.sends[-1] - stay.sends[0] if stay.sends else 0.0
    if not stay.is_whole or is_long or span > _STREAMED or stay.is_silent_for(_STREAMED):
        phases.append("first bytes")
        if (
            (not stay.is_whole and stay.body)
            or is_long
            or (len(stay.sends) > 3 and stay.sends[-1] - stay.sends[2] > _STREAMED)
        ):
            phases.append("mid-stream")
    return phases


def ways_of(route: Route, server: str, *, is_quick: bool) -> list[str]:
    """How clients leave."""
    ways = ["FIN"] if is_quick and route.protocol == "http" else ["FIN", "RST"]
    if route.protocol == "websocket":
        return [*ways, "close frame"]
    return [*ways, "RST_STREAM"] if server == "hypercorn" else ways


def slope_of(points: list[tuple[int, float]]) -> float:
    """Return the middle one of the steps from point to point, the lower of two: a single leap is no slope."""
    steps = sorted((after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(points))
    return steps[(len(steps) - 1) // 2] if steps else 0.0


def logged(fact: dict[str, Any]) -> Logged:
    exception = fact["exception"]
    text = str(fact["text"]).strip().splitlines() or [""]
    if exception is None and "Traceback (most recent call last)" in fact["text"]:  # Daphne logs it as text
        return Logged(fact["log"], fact["logger"], text[0], text[-1], _is_known(text[-1]), None, text[-12:])
    if exception is None:
        return Logged(fact["log"], fact["logger"], text[0], None, _is_known(text[0]), None, [])
    is_of_departure = exception["is_of_departure"]
    words = _words_for_exception(exception)
    return Logged(
        fact["log"], fact["logger"], text[0], words, is_of_departure, exception["place"], exception["traceback"]
    )


_WORDS = ("disconnect", "client left", "socket.send() raised", "connection reset", "broken pipe", "took too long")


def _is_known(text: str) -> bool | None:
    """Whether a text without an exception speaks of a departure; None cannot be told."""
    return True if any(word in text.lower() for word in _WORDS) else None


def _words_for_exception(described: dict[str, Any]) -> str:
    return f"{described['kind']}: {described['text']}" if described["text"] else str(described["kind"])


def _words_for(lost: ServerLost) -> str:
    return "the server ended" if lost.reason == "ended" else "the event loop came to no turn any more"


def _draw(record: dict[str, Any], began: float, marks: list[Mark]) -> None:
    marks.append(Mark(record["began"] - began, "app", "begins"))
    for at, direction, kind, size in record["messages"]:
        who = "server" if direction == "receive" else "app"
        marks.append(Mark(at - began, who, kind, size))
    drawn = record["messages"][-1][0] if record["messages"] else 0.0
    marks += [Mark(at - began, "app", "send") for at in record["sends"] if at > drawn][:200]
    if record["ended"] is not None:
        marks.append(Mark(record["ended"] - began, "app", str(record["how"])))
