"""Proves the records of `disconnect_mw.testing.servers`: a script gives the same lines on the server and in memory.

    print(prove(sys.executable, setup))

A difference is reported with the server, the script and the line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import anyio
import trio.testing

from disconnect_mw.testing import HTTPClient, HTTPSimulatedServer, WebSocketSimulatedServer, servers, visit
from disconnect_mw.testing import Server as Record

from .clients import Client, Hang, WebSocketClient
from .http2 import HTTP2Client
from .scripts import AFTER, BEFORE, CLOSE_CODE, CLOSE_REASON, SCRIPTS, Performance, Script
from .server import Event, Server, Visit
from .setups import RARE, Setup

PATIENCE = (0.4, 0.8, 3.0)
"""Seconds for a step on a real server, at the first try and at those of a script that differed: the machine may have
been busy."""

LINGERS, LINGERS_IF_IMPATIENT = 1.5, 5.0
"""Seconds for the server to cancel an app, which it should not do, and where it is told to do so after a second."""

IN_MEMORY = 0.02

TO_BE_CALLED = 4
"""An app has so many times the seconds for a step to be called."""

TO_NOTICE = 0.25
"""A server has that part of the seconds for a step to notice a disconnect: granian does in a thread of its own, the
others before they read anything sent after it."""

SECONDS_TO_END = 8.0
"""More than the seconds of all steps."""

CLOSE_FRAME = b"\x88\x02"

NOT_CALLED = ("the app is not called",)

Lines = tuple[str, ...]


@dataclass
class Proof:
    """The comparison of a server's scripts with one record or more."""

    title: str
    server: str
    version: str = ""
    count: int = 0
    again: int = 0  # tries of scripts played once more, with more patience
    records: list[str] = field(default_factory=list)
    unrecorded: str = ""  # said of a version that has no record of its own
    differences: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def is_good(self) -> bool:
        return not self.differences and not self.unrecorded and bool(self.count)

    def __str__(self) -> str:
        found = f"{len(self.differences)} DIFFER" if self.differences else "the same"
        again = f", with {self.again} further tries" if self.again and not self.differences else ""
        head = f"record {', '.join(self.records)} ({self.title}): {self.count} scripts, {found}{again}"
        head += f" ({self.seconds:.1f} s)"
        return "\n".join([head, *filter(None, [self.unrecorded]), *self.differences])


# Choosing the record


def records_of(setup: Setup, version: str) -> tuple[list[Record], str]:
    """The records that this server is to be proven against, and a word if it has none of its own."""
    suffix = {"wsproto": "-wsproto", "websockets-sansio": "-sansio"}.get(setup.ws, "")
    found: list[Record] = []
    word = ""
    for ending in (suffix, f"{suffix}-http2") if setup.speaks_http2 else (suffix,):
        numbers = {
            _number(match[1]): record
            for record in servers.ALL
            if (match := re.fullmatch(f"{setup.server}-([0-9.]+){ending}", str(record)))
        }
        if not numbers:
            continue
        number = _number(version)
        if number not in numbers:
            number = max(numbers)
            word = f"{setup.server} {version} has no record of its own: compared with the newest, {numbers[number]}"
        found.append(numbers[number])
    return found, word


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def to_prove(setup: Setup) -> Setup | None:
    """Return the set-up that has a record for `setup`: itself, or the same on asyncio; None if neither has one.

    On uvloop a closed transport raises RuntimeError instead of taking what is written. This shows in the WebSockets of
    gunicorn's `asgi` worker and of uvicorn 0.13.4 with wsproto.
    """
    if setup.server in RARE or setup.worker.startswith("uvicorn"):
        return None  # gunicorn with uvicorn's worker behaves as uvicorn
    if setup.loop == "uvloop":
        return dataclasses.replace(setup, loop="asyncio") if setup.ws == "wsproto" else None
    return setup


def scripts_for(record: Record, is_impatient: bool = False) -> list[Script]:
    """Return the scripts that apply to this record."""
    is_http2 = record.http.http_version == "2"
    return [
        script
        for script in SCRIPTS
        if (script.protocol == "http" and script.http2 if is_http2 else True)
        and (not script.needs or script.needs in record.websocket.extensions)
        and (not is_impatient or "linger" in script.words)
    ]


# In memory


def play_in_memory(record: Record, scripts: Sequence[Script], lingers: float = LINGERS) -> list[Lines]:
    """Return the lines of each script, played with `record`. An app that lingers does so for `lingers` seconds.

    On a clock of its own, which goes on when all of them wait.
    """
    found: dict[int, Lines] = {}

    async def play(number: int, script: Script) -> None:
        found[number] = await _play_in_memory(record, script, lingers)

    async def play_all() -> None:
        async with anyio.create_task_group() as tasks:
            for number, script in enumerate(scripts):
                tasks.start_soon(play, number, script)

    anyio.run(play_all, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})
    return [found[number] for number in range(len(scripts))]


async def _play_in_memory(record: Record, script: Script, lingers: float) -> Lines:
    if "linger" in script.words:
        return await _linger_in_memory(record, script, lingers)
    client: Any = script.client
    if "pour" in script.words:
        client = dataclasses.replace(client, stalls_after_messages=1, leaves_after_seconds=9)
    elif script.way == "clean":
        client = dataclasses.replace(
            client, leaves_after_seconds=9, leaves_by="close", close_code=CLOSE_CODE, close_reason=CLOSE_REASON
        )
    if isinstance(client, HTTPClient) and client.leaves_after_chunks is not None:
        client = dataclasses.replace(client, leaves_by=script.way)  # type: ignore[arg-type]  # a way to leave
    simulated_server: HTTPSimulatedServer | WebSocketSimulatedServer
    if isinstance(client, HTTPClient):
        simulated_server = HTTPSimulatedServer(record.http, client=client)
    else:
        simulated_server = WebSocketSimulatedServer(record.websocket, client=client)
    if not simulated_server.calls_the_app:
        return NOT_CALLED

    async def leave(way: str) -> None:
        simulated_server.leave("close" if way == "clean" else way)  # type: ignore[arg-type]  # a way to leave

    performance = Performance(script, leave, IN_MEMORY, lingers)
    await performance(simulated_server.scope(), simulated_server.receive, simulated_server.send)
    if "got" in script.words:
        bodies = [message.get("body", message.get("text", "")) for message in simulated_server.delivered]
        came = b"|".join(body if isinstance(body, bytes) else body.encode() for body in bodies)
        performance.lines.append(_got(came))
    return tuple(performance.lines)


async def _linger_in_memory(record: Record, script: Script, lingers: float) -> Lines:
    """Play it as a `visit`, whose server cancels the app."""

    async def leave(way: str) -> None:
        pass  # it leaves with the last message

    performance = Performance(script, leave, IN_MEMORY, lingers)
    client = dataclasses.replace(script.client, leaves_after_messages=2)
    await visit(performance, client, record, patience=2 * lingers, raise_app_exceptions=False)
    return tuple(performance.lines)


def as_on(record: Record, python: tuple[int, ...]) -> Record:
    """Return `record` as it is on that version of Python.

    From 3.12.0 to 3.12.8 and 3.13.0 to 3.13.1 asyncio's `writelines` does not pause (CVE-2024-12254): a send of
    gunicorn's that uses it never blocks.
    """
    is_broken = (3, 12) <= python < (3, 12, 9) or (3, 13) <= python < (3, 13, 2)
    if not is_broken or not str(record).startswith("gunicorn"):
        return record
    return dataclasses.replace(record, http=dataclasses.replace(record.http, blocked_send="never blocks"))


def impatient(record: Record) -> Record:
    """Return `record` with a server that cancels an app after a second instead."""
    return Record(
        str(record),
        dataclasses.replace(record.http, cancels_after=1),
        dataclasses.replace(record.websocket, cancels_after=1),
    )


def _got(came: bytes) -> str:
    return f"got: {came.count(BEFORE)} from before, {came.count(AFTER)} from after"


# On a real server


def play_on_server(
    server: Server, scripts: Sequence[Script], is_http2: bool, patience: float, lingers: float
) -> list[Lines]:
    """Return the lines of each script, all played at the same time."""
    visits = [server.visit("script", f"{SCRIPTS.index(script)},{patience},{lingers}") for script in scripts]
    with ThreadPoolExecutor(len(scripts)) as threads:
        plays = [
            threads.submit(_ServerPlay(server, visit, script, is_http2, patience).play)
            for visit, script in zip(visits, scripts, strict=True)
        ]
    return [play.result() for play in plays]


class _ServerPlay:
    """The client of one script."""

    def __init__(self, server: Server, visit: Visit, script: Script, is_http2: bool, patience: float) -> None:
        self._server = server
        self._visit = visit
        self._script = script
        self._is_http2 = is_http2
        self._patience = patience
        self._run = visit.path.rpartition("/")[2]
        self._since = server.count
        self._is_open = True

    def play(self) -> Lines:
        try:
            return self._play()
        except (AssertionError, OSError) as failure:  # a failure of the client is a line that no record has
            return (f"{type(failure).__name__}: {failure}",)

    def _play(self) -> Lines:
        script = self._script
        with self._client() as client:
            if not self._is_called(TO_BE_CALLED * self._patience):
                client.leave("fin")
                return ("the app is called late",) if self._is_called(self._patience) else NOT_CALLED
            if script.way is not None:
                self._leave(client, script.way)
            lines = self._stay(client, is_there=script.way in (None, "half"))
            if "got" in script.words:
                self._read_rest(client)
                lines.append(_got(client.came))
        return tuple(lines)

    def _client(self) -> Client:
        script, path = self._script, self._visit.path
        if isinstance(script.client, HTTPClient):
            client = (HTTP2Client if self._is_http2 else Client)(self._server.port)
            parts = [request["body"] for request in script.client.requests()]
            is_cut = script.client.leaves_after_chunks is not None
            client.request(path, b"".join(parts) if script.client.body else None, chunked=is_cut)
            return client
        websocket = WebSocketClient(self._server.port)
        websocket.ask(path)
        return websocket

    def _is_called(self, seconds: float) -> bool:
        try:
            self._wait("called", seconds)
        except Hang:
            return False
        return True

    def _wait(self, key: str, seconds: float) -> Event:
        return self._server.wait(
            lambda event: event.get("run") == self._run and key in event,
            f"word that {self._script} is {key}",
            seconds,
            self._since,
        )

    def _leave(self, client: Client, way: str) -> None:
        self._visit.until("left")
        if "got" in self._script.words and "chunk" in self._script.words:
            client.hear(BEFORE)
        if isinstance(client, WebSocketClient):
            messages = self._script.client.receives()  # type: ignore[union-attr]  # it is a WebSocket's
            if messages:
                client.hear(b"\r\n\r\n")
                client.messages(
                    message["text"] if message["bytes"] is None else message["bytes"] for message in messages
                )
                self._server.mark(f"talked-{self._run}")
                time.sleep(TO_NOTICE * self._patience)
        if isinstance(client, WebSocketClient) and way == "clean":
            client.close_frame(CLOSE_CODE, CLOSE_REASON)
            self._finish_close(client)
        elif isinstance(client, HTTP2Client) and way == "rst":
            client.leave("reset")
        else:
            client.leave(way)
        time.sleep(TO_NOTICE * self._patience)
        self._visit.cue()

    def _stay(self, client: Client, is_there: bool) -> list[str]:
        """Read and answer until the app has ended; return its lines."""
        until = time.monotonic() + self._patience * len(self._script.words) + SECONDS_TO_END
        while is_there and time.monotonic() < until and not self._has_ended():
            try:
                is_there = client.listen(self._patience / 4)
            except ConnectionError:
                is_there = False
            if isinstance(client, WebSocketClient) and CLOSE_FRAME in client.came:
                with contextlib.suppress(ConnectionError):
                    client.close_frame(1000)
                self._finish_close(client)
                is_there = False
        return list(self._wait("script", max(until - time.monotonic(), 0))["script"])

    def _read_rest(self, client: Client) -> None:
        """Read what is still to come when the app has ended."""
        came = None
        while self._is_open and came != client.came:
            came = client.came
            with contextlib.suppress(ConnectionError):
                self._is_open = client.listen(self._patience)

    def _finish_close(self, client: Client) -> None:
        """Wait for the server to end the connection after the close frames (RFC 6455, 7.1.1), or end it then."""
        until = time.monotonic() + self._patience
        while client.listen(self._patience / 4) and time.monotonic() < until:
            pass
        client.leave("fin")
        self._is_open = False

    def _has_ended(self) -> bool:
        return any(event.get("run") == self._run and "script" in event for event in self._server.events(self._since))


# The comparison


def prove(python: str, setup: Setup, records: Sequence[Record] | None = None) -> Proof:
    """Compare all scripts on the server of `setup`, run by the interpreter `python`, with its records."""
    proof = Proof(f"{setup}", setup.server)
    began = time.monotonic()
    lingers = LINGERS_IF_IMPATIENT if setup.is_impatient else LINGERS
    try:
        patient = dataclasses.replace(setup, is_patient=not setup.is_impatient)
        with Server(python, patient, "servers.bare:app") as server:
            proof.version = server.version
            on = tuple(server.wait(lambda event: "python" in event, "word of its Python")["python"])
            if records is None:
                records, proof.unrecorded = records_of(setup, server.version)
            for record in (as_on(record, on) for record in records):
                proof.records.append(str(record))
                scripts = scripts_for(record, setup.is_impatient)
                is_http2 = record.http.http_version == "2"
                proof.count += len(scripts)
                wanted = play_in_memory(impatient(record) if setup.is_impatient else record, scripts, lingers)
                came: dict[int, Lines] = {}
                for patience in PATIENCE:
                    left = [number for number in range(len(scripts)) if came.get(number) != wanted[number]]
                    if not left:
                        break
                    proof.again += len(left) if came else 0
                    played = play_on_server(server, [scripts[number] for number in left], is_http2, patience, lingers)
                    came.update(zip(left, played, strict=True))
                for number, script in enumerate(scripts):
                    if came[number] != wanted[number]:
                        proof.differences.append(difference(record, script, came[number], wanted[number]))
    except (AssertionError, OSError) as failure:
        proof.differences.append(f"{setup}: {type(failure).__name__}: {failure}")
    proof.seconds = time.monotonic() - began
    return proof


def difference(record: Record, script: Script, came: Lines, wanted: Lines) -> str:
    """Return all lines, each that differs beside the record's, and the number of the first."""
    pairs = list(itertools.zip_longest(came, wanted, fillvalue="(nothing)"))
    first = next(number for number, (one, other) in enumerate(pairs) if one != other)
    text = [f"{record}: {script}: differs in line {first + 1}"]
    for one, other in pairs:
        text.append(f"    {one}" if one == other else f"  ! {one}   -- the record has: {other}")
    return "\n".join(text)
