"""A server process of the check: how it is started, and what its probe tells."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import sys
from typing import Any, Self

from ._environments import Environment
from ._options import CheckError
from ._probe import VARIABLE

_SECONDS_TO_START = 180.0
_SECONDS_TO_ACCEPT = 180.0
_SECONDS_TO_ANSWER = 3.0
_SECONDS_FOR_LIFESPAN = 1.0
_ATTEMPTS = 3
_LINES_SHOWN = 6
_APP = "disconnect_mw._check._served:app"


class ServerLost(Exception):
    """The server's process has ended, or its event loop does not come to a turn: `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass
class Seen:
    """What the probe has told of the exchange with one client."""

    begun: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    ended: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def command_of(server: str, versions: dict[str, str], port: int) -> list[str]:
    """Return the arguments for Python with which users start that server, with one worker on loopback."""
    bind = f"127.0.0.1:{port}"
    if server == "gunicorn":
        # Its own worker for ASGI came with version 24.
        worker = "asgi" if int(versions["gunicorn"].partition(".")[0]) >= 24 else "uvicorn.workers.UvicornWorker"
        return ["-m", "gunicorn", "--bind", bind, "--worker-class", worker, "--workers", "1", _APP]
    if server == "hypercorn":
        return ["-m", "hypercorn", "--bind", bind, _APP]
    if server == "granian":
        options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        return ["-m", "granian", *options, _APP]
    if server == "daphne":
        return ["-m", "daphne", "--bind", "127.0.0.1", "--port", str(port), "--verbosity", "0", _APP]
    return ["-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), _APP]


class Server:
    """One server process with the app, for as long as the context manager lives.

    `settings` are the probe's, but for port and token. Raises `CheckError` if it does not start.
    """

    def __init__(self, name: str, environment: Environment, settings: dict[str, Any]) -> None:
        self.name = name
        self._environment = environment
        self._settings = settings
        self._token = secrets.token_hex(8)
        self._seen: dict[int, Seen] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._cancelled: set[int] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._writer: asyncio.StreamWriter | None = None  # of the worker that serves
        self._failure: CheckError | None = None
        self._loaded = asyncio.Event()
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self.port = 0
        self.facts: dict[str, Any] = {}
        self.has_own = False
        self.log: list[dict[str, Any]] = []  # of no exchange that is known
        self.printed: list[str] = []

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._hear, "127.0.0.1", 0, limit=1 << 24)
        try:
            await self._start_on_a_free_port()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()
        self._listener.close()
        for writer in self._writers:
            writer.close()

    async def _start_on_a_free_port(self) -> None:
        attempt = 1
        while True:
            try:
                return await self._start()
            except _PortTaken:
                await self._stop()
            if attempt == _ATTEMPTS:
                raise CheckError(f"{self.name} found its port taken {attempt} times, at last {self.port}: try again")
            attempt += 1

    async def _start(self) -> None:
        with socket.socket() as probing:
            probing.bind(("127.0.0.1", 0))
            self.port = probing.getsockname()[1]
        telling = self._listener.sockets[0].getsockname()[1]
        settings = {**self._settings, "port": telling, "token": self._token}
        self._ended.clear()
        self._process = await asyncio.create_subprocess_exec(
            self._environment.python,
            *command_of(self.name, self._environment.versions, self.port),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **os.environ,
                "PYTHONPATH": self._environment.import_path,
                "PYTHONUNBUFFERED": "1",
                VARIABLE: json.dumps(settings),
            },
            limit=1 << 20,
            start_new_session=sys.platform != "win32",  # so that its workers can be ended with it
        )
        self._reader = asyncio.create_task(self._read_output())
        await self._wait_until_it_serves()

    async def _wait_until_it_serves(self) -> None:
        try:
            async with asyncio.timeout(_SECONDS_TO_START):
                await self._first(self._loaded)
        except TimeoutError:
            raise CheckError(
                f"the app was not imported under {self.name} within {_SECONDS_TO_START:.0f} s", self._last_lines()
            ) from None
        try:
            async with asyncio.timeout(_SECONDS_TO_ACCEPT):
                accepts = await self._accepts()
                while not accepts:
                    await self._first(self._started, 0.05)
                    accepts = await self._accepts()
        except TimeoutError:
            raise CheckError(f"{self.name} does not accept a connection", self._last_lines()) from None
        await self._first(self._started, _SECONDS_FOR_LIFESPAN)  # Daphne has no lifespan

    async def _first(self, event: asyncio.Event, seconds: float | None = None) -> None:
        """Wait for `event`, for so many seconds at most. Raises `CheckError` if the app has failed by then."""
        waits = {asyncio.create_task(event.wait()), asyncio.create_task(self._ended.wait())}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._failure is not None:
            raise self._failure
        if self._ended.is_set():
            await self._reader
            if any("ddress already in use" in line for line in self.printed):
                raise _PortTaken
            lines = self._last_lines()
            raise CheckError(f"{self.name} ended with status {self._process.returncode} before it served", lines)

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def _last_lines(self) -> list[str]:
        return [line for line in self.printed if line.strip()][-_LINES_SHOWN:]

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # a line of more than a mebibyte
            async for line in self._process.stdout:
                self.printed.append(line.decode(errors="replace").rstrip())
                del self.printed[:-1000]
        await self._process.wait()
        self._ended.set()

    async def _stop(self) -> None:
        process = getattr(self, "_process", None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        await process.wait()
        self._reader.cancel()
        await asyncio.wait([self._reader])

    # What the probe tells

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            async for line in reader:
                fact = json.loads(line)
                if fact.get("token") == self._token:  # else it is another process of this machine
                    self._note(fact, writer)
        writer.close()

    def _note(self, fact: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if "answer" in fact:
            answer = self._answers.pop(fact["answer"], None)
            if answer is not None and not answer.done():
                answer.set_result(fact["found"])
        elif "begin" in fact:
            self._writer, self.has_own = writer, fact["has_own"]
            if fact["begin"] in self._seen:
                self._seen[fact["begin"]].begun.set()
        elif "end" in fact:
            if fact["end"] in self._seen:
                self._seen[fact["end"]].ended.set()
        elif "log" in fact:
            if fact["port"] not in self._cancelled:
                (self._seen[fact["port"]].log if fact["port"] in self._seen else self.log).append(fact)
        elif "failed" in fact:
            self._failure = CheckError(f"the app does not start: {fact['failed']}", fact["traceback"])
            self._loaded.set()
            self._started.set()
        elif "started" in fact:
            self._writer = writer
            self._started.set()
        else:
            self._writer, self.facts = writer, fact["loaded"]
            self._loaded.set()

    def expect(self, port: int) -> Seen:
        """Return what is told of the exchange with the client at `port` from now on."""
        self._seen[port] = Seen()
        self._cancelled.discard(port)
        return self._seen[port]

    def forget(self, port: int) -> None:
        self._seen.pop(port, None)

    async def cancel(self, port: int) -> None:
        """Cancel what is left of that exchange, as a server does that shuts down. What is logged then counts not."""
        self._cancelled.add(port)
        await self.ask("cancel", port=port)

    async def ask(self, do: str, **arguments: Any) -> Any:
        """Have the probe do something, in the event loop of the app. Raises `ServerLost` if no answer comes."""
        self._asked += 1
        answer = self._answers[self._asked] = asyncio.get_running_loop().create_future()
        command = json.dumps({"id": self._asked, "do": do, **arguments}).encode() + b"\n"
        try:
            async with asyncio.timeout(_SECONDS_TO_ANSWER * (4 if do in ("memory", "measure") else 1)):
                if self._writer is None or self._ended.is_set():
                    raise ServerLost("ended")
                self._writer.write(command)
                return await answer
        except (TimeoutError, OSError):
            raise ServerLost("ended" if self._ended.is_set() else "blocked") from None


class _PortTaken(Exception):
    pass
