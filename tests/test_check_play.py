"""The parts of `disconnect-mw check` that play: clients, server processes, environments, the phases."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import shutil
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import wsproto
from wsproto import events

from disconnect_mw import _throw_away
from disconnect_mw._check import _environments, _play, _run, _server
from disconnect_mw._check._clients import Client, HTTP2Client, HTTPClient, Refused, WebSocketClient, client_of
from disconnect_mw._check._environments import Environment
from disconnect_mw._check._evidence import Departure, OnServer, Report, Result, Side, Stay
from disconnect_mw._check._options import CheckError, Options
from disconnect_mw._check._play import Player, logged, phases_of, slope_of, ways_of
from disconnect_mw._check._routes import Route
from disconnect_mw._check._server import Server, ServerLost, command_of

pytestmark = pytest.mark.anyio

SECONDS = 20.0  # no wait here is longer

GET = Route("http", "GET", "/a", "/a", (("x-key", "1"),))
POST = Route("http", "POST", "/a", "/a", (), 100 * b"x")
WS = Route("websocket", "GET", "/ws", "/ws", (("sec-websocket-protocol", "chat, news"), ("x-key", "1")))

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs /bin/sh")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server of one handler; its port. What the handler raises is raised here."""
    failures: list[BaseException] = []
    tasks: set[Any] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as failure:
            failures.append(failure)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(SECONDS):
            yield server.sockets[0].getsockname()[1]
            if tasks:
                await asyncio.wait(tasks)
    finally:
        server.close()
    assert failures == []


async def connect(kind: type[Client], port: int) -> Any:
    return await kind.connect(port)


# Clients


async def test_a_client_speaks_http() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /a HTTP/1.1\r\n") and b"content-length: 100\r\n" in head.lower()
        assert await reader.readexactly(100) == 100 * b"x"
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok")
        assert await reader.read() == b""

    async with serving(answer) as port:
        client = await connect(HTTPClient, port)
        await client.ask(POST)
        assert await client.head() == (200, [("content-length", "2"), ("x-a", "b")])
        assert await client.more() == b"ok"
        assert await client.more() is None
        await client.leave("FIN")


async def test_a_cut_upload_is_half_of_the_body_and_a_reset_is_one() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(50) == 50 * b"x"
        half.set()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)

    half = asyncio.Event()
    async with serving(answer) as port:
        client = await connect(HTTPClient, port)
        await client.ask(POST, is_cut=True)
        await half.wait()
        await client.leave("RST")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"SSH-2.0\r\n\r\n"])
async def test_a_server_that_closes_or_speaks_another_protocol(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with serving(answer) as port:
        client = await connect(HTTPClient, port)
        await client.ask(GET)
        with pytest.raises(Refused):
            await client.head()
            while await client.more() is not None:
                pass
        client.close()


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")

    async with serving(answer) as port:
        client = await connect(HTTPClient, port)
        await client.ask(GET)
        await client.head()
        body = b""
        while (part := await client.more()) is not None:
            body += part
        assert body == b"ok"
        client.close()


async def test_a_write_to_a_connection_that_is_closed_is_refused() -> None:
    client = await _connected_to_one_that_resets()
    with pytest.raises(Refused):
        for _ in range(1000):
            await client._write(bytes(10_000))
            await asyncio.sleep(0)
    await client.leave("FIN")


async def _connected_to_one_that_resets() -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(answer) as port:
        return await connect(HTTPClient, port)


async def test_a_connection_that_is_reset_has_ended() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with serving(reset) as port:
        client = await connect(HTTPClient, port)
        await client.ask(GET)
        assert await client._read() == b""
        client.close()


async def test_a_port_at_which_nothing_listens() -> None:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            await connect(HTTPClient, probing.getsockname()[1])


async def _speak_http2(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[Any], answer: str
) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    writer.write(connection.data_to_send())
    while content := await reader.read(65536):
        for event in connection.receive_data(content):
            seen.append(event)
            if isinstance(event, h2.events.RequestReceived) and answer:
                if answer != "reset":
                    connection.send_headers(event.stream_id, [(":status", "200"), ("x-a", "b")])
                    connection.send_data(event.stream_id, b"ok", end_stream=answer == "whole")
                else:
                    connection.reset_stream(event.stream_id)
        writer.write(connection.data_to_send())
        if answer == "closes":
            return


async def test_a_client_speaks_http2_and_resets_its_stream() -> None:
    seen: list[Any] = []
    async with serving(lambda reader, writer: _speak_http2(reader, writer, seen, "open")) as port:
        client = await connect(HTTP2Client, port)
        await client.ask(POST, is_cut=True)
        assert await client.head() == (200, [("x-a", "b")])
        assert await client.more() == b"ok"
        await client.leave("RST_STREAM")
        while not any(isinstance(event, h2.events.StreamReset) for event in seen):
            await asyncio.sleep(0.01)
        await client.leave("FIN")
    assert b"".join(event.data for event in seen if isinstance(event, h2.events.DataReceived)) == 50 * b"x"


@pytest.mark.parametrize("answer", ["whole", "closes"])
async def test_the_end_over_http2(answer: str) -> None:
    async with serving(lambda reader, writer: _speak_http2(reader, writer, [], answer)) as port:
        client = await connect(HTTP2Client, port)
        await client.ask(GET)
        await client.head()
        assert (await client.more(), await client.more()) == (b"ok", None)
        client.close()


async def test_a_stream_that_the_server_resets_has_no_answer() -> None:
    async with serving(lambda reader, writer: _speak_http2(reader, writer, [], "reset")) as port:
        client = await connect(HTTP2Client, port)
        await client.ask(GET)
        with pytest.raises(Refused, match="without an answer"):
            await client.head()
        client.close()


async def _speak_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *answers: Any) -> None:
    connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
    pending = [*answers]
    while content := await reader.read(65536):
        connection.receive_data(content)
        for event in connection.events():
            if isinstance(event, events.Request):
                assert event.subprotocols == ["chat", "news"]
                assert (b"x-key", b"1") in event.extra_headers
                for answer in pending:
                    writer.write(answer if isinstance(answer, bytes) else connection.send(answer))
            elif isinstance(event, events.TextMessage):
                writer.write(connection.send(events.TextMessage(data=event.data)))
            elif isinstance(event, events.CloseConnection):
                assert event.code == 1001
                writer.write(connection.send(event.response()))
                return


async def test_a_client_speaks_websocket() -> None:
    answers = (
        events.AcceptConnection(subprotocol="chat"),
        events.Ping(),
        events.TextMessage(data="he", message_finished=False),
        events.TextMessage(data="llo"),
        events.BytesMessage(data=b"\0"),
    )
    async with serving(lambda reader, writer: _speak_websocket(reader, writer, *answers)) as port:
        client = await connect(WebSocketClient, port)
        await client.ask(WS)
        assert await client.head() == (101, [("sec-websocket-protocol", "chat")])
        assert [await client.more(), await client.more()] == [b"hello", b"\0"]
        await client.say("ho")
        assert await client.more() == b"ho"
        await client.leave("close frame")
        await client.leave("close frame") if client._socket.fileno() >= 0 else None


@pytest.mark.parametrize(
    ("answers", "expected"),
    [((events.RejectConnection(status_code=403),), 403), ((events.AcceptConnection(),), 101)],
)
async def test_a_handshake_that_is_refused_or_accepted(answers: Any, expected: int) -> None:
    async with serving(lambda reader, writer: _speak_websocket(reader, writer, *answers)) as port:
        client = await connect(WebSocketClient, port)
        await client.ask(WS)
        assert await client.head() == (expected, [])
        client.close()


async def test_a_websocket_that_the_server_ends() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with serving(answer) as port:
        client = await connect(WebSocketClient, port)
        await client.ask(WS)
        with pytest.raises(Refused, match="without an answer to the handshake"):
            await client.head()
        await client.leave("close frame")  # which no one hears
    async with serving(lambda reader, writer: _speak_websocket(reader, writer, b"HTTP/1.1 x\r\n\r\n")) as port:
        client = await connect(WebSocketClient, port)
        await client.ask(WS)
        with pytest.raises(Refused, match="broke the WebSocket protocol"):
            await client.head()
        client.close()


def test_the_client_for_a_route() -> None:
    assert client_of(WS, "FIN") is WebSocketClient
    assert client_of(GET, "FIN") is HTTPClient
    assert client_of(GET, "RST_STREAM") is HTTP2Client


# Phases, ways, memory, log


STREAM = [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("route", "stay", "expected"),
    [
        (WS, Stay(101), ["before accept", "open"]),
        (GET, Stay(200, body=b"ok", is_whole=True, sends=[0.0]), ["before response"]),
        (GET, Stay(200, body=b"ok", is_whole=True), ["before response"]),
        (POST, Stay(200, is_whole=True, sends=[0.0]), ["upload", "before response"]),
        (GET, Stay(problem="no answer"), ["before response"]),
        (GET, Stay(200, is_whole=True, sends=STREAM), ["before response", "first bytes", "mid-stream"]),
        (GET, Stay(200, is_whole=True, sends=STREAM[:2]), ["before response", "first bytes"]),
        (GET, Stay(200, body=b"tick", sends=STREAM), ["before response", "first bytes", "mid-stream"]),
        (GET, Stay(200), ["before response", "first bytes"]),
        (GET, Stay(200, body=b"ok", is_whole=True, began=0.0, sends=[0.3]), ["before response", "first bytes"]),
        (GET, Stay(200, body=bytes(1 << 20), is_whole=True), ["before response", "first bytes", "mid-stream"]),
    ],
)
def test_when_a_client_can_leave(route: Route, stay: Stay, expected: list[str]) -> None:
    assert phases_of(route, stay) == expected


def test_how_a_client_can_leave() -> None:
    assert ways_of(GET, "uvicorn", is_quick=False) == ["FIN", "RST"]
    assert ways_of(GET, "uvicorn", is_quick=True) == ["FIN"]
    assert ways_of(GET, "hypercorn", is_quick=False) == ["FIN", "RST", "RST_STREAM"]
    assert ways_of(WS, "hypercorn", is_quick=True) == ["FIN", "RST", "close frame"]


def test_the_slope_of_memory() -> None:
    assert slope_of([(20, 100.0), (40, 300.0), (60, 500.0)]) == 10.0
    assert slope_of([(20, 0.0), (40, 900.0), (60, 900.0)]) == 0.0  # a leap
    assert slope_of([(20, 0.0), (40, 0.0), (60, 900.0), (80, 1100.0), (100, 1300.0)]) == 10.0
    assert slope_of([(20, 100.0)]) == 0.0


def test_what_is_logged_in_words() -> None:
    fact = {"log": "ERROR", "logger": "daphne.server", "exception": None}
    text = "Exception inside application\nTraceback (most recent call last):\n  File\nKeyError: 'a'"
    found = logged({**fact, "text": text})
    assert (found.text, found.exception, found.is_of_departure) == (
        "Exception inside application",
        "KeyError: 'a'",
        None,
    )
    assert logged({**fact, "text": "socket.send() raised exception."}).is_of_departure is True
    assert logged({**fact, "text": ""}).text == ""
    exception = {"kind": "KeyError", "text": "", "is_of_departure": False, "place": None, "traceback": []}
    assert logged({**fact, "text": "x", "exception": exception}).exception == "KeyError"


# Servers


def test_how_each_server_is_started() -> None:
    for server in ("uvicorn", "hypercorn", "granian", "daphne"):
        command = command_of(server, {}, 80)
        assert command[:2] == ["-m", server] and any("80" in word for word in command)
    assert "asgi" in command_of("gunicorn", {"gunicorn": "27.0.1"}, 80)
    assert "uvicorn.workers.UvicornWorker" in command_of("gunicorn", {"gunicorn": "23.0.0"}, 80)


def fake_server(directory: Path, program: str) -> Server:
    """A server whose interpreter is a shell."""
    python = directory / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    return Server("uvicorn", Environment(str(python), "", {}), {})


@posix_only
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("echo one; echo two >&2; exit 3", "uvicorn ended with status 3 before it served"),
        ("echo '[Errno 98] Address already in use'; exit 1", "uvicorn found its port taken 3 times, at last"),
        ("exec sleep 60", "the app was not imported under uvicorn within 0 s"),
    ],
)
async def test_a_server_that_does_not_start(
    program: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in program:
        monkeypatch.setattr(_server, "_SECONDS_TO_START", 0.3)
    with pytest.raises(CheckError, match=told.replace("(", "\\(")) as raised:
        await fake_server(tmp_path, program).__aenter__()
    if "two" in program:
        assert raised.value.lines == ("one", "two")


TELLING = """
exec {python} -c '
import json, os, socket, time
settings = json.loads(os.environ["CHECK_OF_DISCONNECT_MW"])
telling = socket.create_connection(("127.0.0.1", settings["port"]))
for token in ("of another", settings["token"]):
    telling.sendall(json.dumps({{"token": token, "loaded": {{"token": token}}}}).encode() + b"\\n")
{more}
time.sleep(60)'
"""


@posix_only
async def test_a_server_that_never_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_SECONDS_TO_ACCEPT", 0.5)
    program = TELLING.format(python=sys.executable, more="")
    with pytest.raises(CheckError, match="uvicorn does not accept a connection"):
        await fake_server(tmp_path, program).__aenter__()


@posix_only
async def test_a_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "_SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr(_server, "_SECONDS_FOR_LIFESPAN", 0.1)
    listens = 'import sys; listening = socket.create_server(("127.0.0.1", int(sys.argv[-2])))'
    program = TELLING.format(python=sys.executable, more=listens).rstrip() + ' "$@"'
    async with fake_server(tmp_path, program) as server:
        assert server.facts["token"] != "of another"
        with pytest.raises(ServerLost) as lost:
            await server.ask("ping")
        assert lost.value.reason == "blocked"
        server._note({"answer": 99, "found": None}, server._writer)  # type: ignore[arg-type]  # of an ask that is over
        server._process.kill()
        await server._ended.wait()
        with pytest.raises(ServerLost) as lost:
            await server.ask("ping")
        assert lost.value.reason == "ended"


@posix_only
async def test_logs_go_to_the_exchange_that_is_known(tmp_path: Path) -> None:
    server = fake_server(tmp_path, "")
    writer: Any = None
    seen = server.expect(5)
    for port in (5, 6, None):
        server._note({"log": "ERROR", "port": port}, writer)
        server._note({"begin": port, "has_own": False}, writer)
        server._note({"end": port}, writer)
    assert (len(seen.log), len(server.log)) == (1, 2)
    assert seen.begun.is_set() and seen.ended.is_set()
    server._cancelled.add(5)
    server._note({"log": "ERROR", "port": 5}, writer)
    assert (len(seen.log), len(server.log)) == (1, 2)
    await server._stop()  # which was never started


# Environments


def test_the_environment_that_runs_now() -> None:
    found = _environments.this_environment()
    assert found.python == sys.executable
    assert found.versions["uvicorn"] == importlib.metadata.version("uvicorn")


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would be installed, in the place of installing it."""
    found: list[list[str]] = []

    def make(directory: Path, wanted: Any, show: Any) -> str:
        show()
        found.extend(wanted)
        return "python"

    monkeypatch.setattr(_throw_away, "make", make)
    return found


def test_a_throw_away_environment_has_what_is_installed_here(installs: list[list[str]], tmp_path: Path) -> None:
    found = _environments.throw_away_environment("uvicorn", "0.13.4", None, tmp_path, lambda: None)
    assert (found.python, found.versions) == ("python", {"uvicorn": "0.13.4"})
    assert (Path(found.import_path.split(":")[0]) / "disconnect_mw" / "_check" / "report.html.jinja").is_file()
    first, second = installs
    assert first[:2] == ["--no-deps", "-r"]
    listed = Path(first[2]).read_text().splitlines()
    assert f"h11=={importlib.metadata.version('h11')}" in listed
    assert not any(line.startswith(("uvicorn=", "disconnect-mw")) for line in listed)
    assert second == ["uvicorn==0.13.4", "asgiref", "websockets<14"]


def test_a_throw_away_environment_of_a_list(installs: list[list[str]], tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# the app's\nH2==4.0\nstarlette\n\n")
    found = _environments.throw_away_environment("hypercorn", None, requirements, tmp_path, lambda: None)
    assert found.versions == {"hypercorn": "999"}
    assert installs == [["-r", str(requirements)], ["hypercorn", "asgiref"]]
    shutil.rmtree(tmp_path / "import")
    installs.clear()
    _environments.throw_away_environment("uvicorn", "0.54.0", requirements, tmp_path, lambda: None)
    assert installs[1] == ["uvicorn==0.54.0", "asgiref", "httptools", "websockets"]


def test_packages_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distribution:
        version = "1.0"

        def __init__(self, name: str, origin: Any) -> None:
            self.metadata = {"Name": name}
            self._origin = origin

        def read_text(self, name: str) -> str | None:
            return None if self._origin is None else json.dumps(self._origin)

    found = [
        Distribution("A_b", None),
        Distribution("c", {"url": "https://example.org/c.whl"}),
        Distribution("d", {"url": "file:///d", "dir_info": {"editable": True}}),
        Distribution("", None),
        Distribution("pip", None),
    ]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    monkeypatch.setattr(sys, "path", ["/d/src", "", f"{sys.prefix}/lib", "/x/site-packages"])
    assert _environments._packages_here() == (["a-b==1.0", "c @ https://example.org/c.whl"], ["/d/src"])
    found.pop(2)
    assert _environments._packages_here()[1] == []


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (_throw_away.NotInstalled("", is_late=True), "uvicorn==9.9.9 was not installed within 300 s: try again"),
        (
            _throw_away.NotInstalled("Because there is no version of uvicorn==9.9.9"),
            "there is no uvicorn==9.9.9 for this Python: see pip index versions uvicorn",
        ),
        (
            _throw_away.NotInstalled("  x no\n  conflict of a and b"),
            "uvicorn==9.9.9 could not be installed with the app's packages; the installer's last line: conflict of a",
        ),
    ],
)
async def test_a_server_that_does_not_install(failure: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> str:
        raise failure

    monkeypatch.setattr(_throw_away, "make", fail)
    report = Report("", "a:b", {})
    with pytest.raises(CheckError) as raised:
        await _run.check(Options("a:b", servers=(("uvicorn", "9.9.9"),)), report, Silent())
    assert str(raised.value).startswith(told)
    assert report.servers[0].problem == str(raised.value)


class Silent:
    def say(self, what: str) -> None: ...

    def expect(self, steps: int) -> None: ...

    def step(self) -> None: ...


async def test_without_a_server_there_is_nothing_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "installed_servers", dict)
    with pytest.raises(CheckError, match="no server is installed here: pass --server uvicorn"):
        await _run.check(Options("a:b"), Report("", "a:b", {}), Silent())
    monkeypatch.setattr(importlib.metadata, "version", _not_found)
    assert _environments.installed_servers() == {}


def _not_found(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


# The course


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (403, [], "needs a login (403)"),
        (400, [], "refuses the request (400)"),
        (302, [], "redirects (302) to elsewhere"),
        (503, [], "(503; nothing is logged)"),
        (404, [], "there is no such path (404)"),
        (418, [], "answers 418 to a client"),
        (None, [], None),
        (200, [], None),
    ],
)
def test_why_a_route_is_not_left(status: int | None, headers: Any, told: str | None) -> None:
    reason = _run._why_skipped(GET, Side([Stay(status, headers)]))
    assert reason is None if told is None else told in (reason or "")
    result = Result(GET, wrapped=Side(departures=[Departure("mid-stream", "FIN", not_played="over")]))
    assert _run._why_not_left(result) == "over"
    assert _run._why_not_left(Result(GET)) == "not tried"


class Documents:
    """A server of documents, and of a table of routes."""

    def __init__(self, documents: dict[str, bytes], table: Any = ()) -> None:
        self.documents, self._table = documents, [*table]
        self.port = 0

    async def ask(self, do: str) -> Any:
        return self._table

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        body = self.documents.get(path)
        if body is None:
            writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        elif body:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


ONE = json.dumps({"paths": {"/one": {"get": {}}, "/two": {"get": {}}}}).encode()
TABLE = [
    {"path": "/one", "methods": ["GET"], "is_websocket": False},
    {"path": "/ws", "methods": [], "is_websocket": True},
]


@pytest.mark.parametrize(
    ("documents", "options", "titles", "note"),
    [
        ({"/openapi.json": ONE}, {}, ["GET /one", "GET /two", "WS /ws"], None),
        ({"/openapi.json": b"", "/schema/openapi.json": ONE}, {}, ["GET /one", "GET /two", "WS /ws"], None),
        ({"/openapi.json": b"<html>"}, {}, ["GET /one", "WS /ws"], "/openapi.json: the OpenAPI document is not JSON"),
        ({}, {"openapi": "/none.json"}, ["GET /one", "WS /ws"], "/none.json gives no OpenAPI document"),
        ({"/openapi.json": ONE}, {"most_routes": 1}, ["GET /one"], "of 3 routes the last 2 are not tried"),
    ],
)
async def test_the_routes_come_from_the_document_and_the_table(
    documents: dict[str, bytes], options: Any, titles: list[str], note: str | None
) -> None:
    server: Any = Documents(documents, TABLE)
    found = OnServer("uvicorn", "")
    async with serving(server.serve) as server.port:
        routes = await _run._routes(server, Options("a:b", **options), found)
    assert [route.title for route in routes] == titles
    assert any(one.startswith(note) for one in found.notes) if note else found.notes == []


async def test_a_server_that_is_lost_is_started_anew_and_the_play_repeated() -> None:
    class Lost:
        log: list[Any] = []

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *exception: object) -> None: ...

    made: list[Any] = []

    def make() -> Any:
        made.append(Lost())
        return made[-1]

    player = Player(make, Options("a:b"), lambda what: None)
    await player.start()
    failures: list[Exception] = [ServerLost("blocked")]

    async def play() -> str:
        if failures:
            raise failures.pop()
        return "played"

    assert await player._surely(play) == "played"
    assert len(made) == 2
    for failure, reason in ((ServerLost("blocked"), "blocked"), (OSError(), "ended")):
        failures += [failure, failure]
        with pytest.raises(ServerLost) as lost:
            await player._surely(play)
        assert lost.value.reason == reason
    assert len(made) == 6
    # A stay and a departure say so.
    player._surely = _lose  # type: ignore[method-assign]
    assert (await player.stay(GET)).problem == "the event loop came to no turn any more"
    assert (await player.depart(GET, "mid-stream", "FIN", Stay())).lost == "blocked"
    await player.stop()
    await player.stop()


async def _lose(play: Any) -> Any:
    raise ServerLost("blocked")


async def test_memory_is_not_measured_where_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    player = Player(lambda: None, Options("a:b"), lambda what: None)  # type: ignore[arg-type,return-value]  # unused
    for departures, reason in (
        ([], "no client could leave"),
        ([Departure("mid-stream", "FIN", seconds=None)], "do not end"),
        ([Departure("mid-stream", "FIN", seconds=0.1, tasks=["beat"])], "tasks that are left"),
    ):
        side = Side([Stay(200)], departures)
        await player.measure(GET, side)
        assert reason in (side.no_memory or "")
    monkeypatch.setattr(player, "_slope", _lose)
    monkeypatch.setattr(player, "_start_anew", _started)
    for name, reason in (
        ("uvicorn", "the server was lost meanwhile"),
        ("gunicorn", "gunicorn keeps what belongs to a client for some seconds"),
    ):
        side = Side([Stay(200)], [Departure("mid-stream", "FIN", seconds=0.1)])
        player.server = type("Server", (), {"name": name})  # type: ignore[assignment]
        await player.measure(GET, side)
        assert side.no_memory == reason


async def _started(server: Any) -> None: ...


def test_how_long_a_handler_may_go_on() -> None:
    player = Player(lambda: None, Options("a:b"), lambda what: None)  # type: ignore[arg-type,return-value]  # unused
    assert player._seconds_to_end(Stay(200)) == 4.0
    assert player._seconds_to_end(Stay(200, is_whole=True, seconds=5.0)) == 6.0
    assert player._seconds_to_end(Stay(200, is_whole=True, seconds=50.0)) == 8.0


def test_what_came_too_late() -> None:
    player = Player(lambda: None, Options("a:b"), lambda what: None)  # type: ignore[arg-type,return-value]  # unused
    record = {"status_at": 1.0, "ended": None, "messages": [(1.0, "send", "websocket.accept", 0)]}
    assert player._why_too_late(record, "before response", 2.0, GET) == "it answers before a client can leave"
    assert player._why_too_late(record, "before accept", 2.0, WS) == "it accepts before a client can leave"
    assert player._why_too_late(record, "before accept", 0.5, WS) is None
    assert player._why_too_late({**record, "ended": 1.5}, "mid-stream", 2.0, GET) == (
        "it was over before a client could leave"
    )
    assert player._why_too_late(record, "mid-stream", 2.0, GET) is None


async def test_daphne_has_time_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_play, "_SECONDS_FOR_DAPHNE", 0.0)

    class Answering:
        name = "daphne"

        async def ask(self, do: str, port: int) -> Any:
            return None

    player = Player(lambda: None, Options("a:b"), lambda what: None)  # type: ignore[arg-type,return-value]  # unused
    server: Any = Answering()
    assert await player._settled(server, 1, _server.Seen(), Stay()) is None


# With a server of the test's own


class Told:
    """A server that the probe tells of as the test says."""

    name = "uvicorn"
    has_own = False

    def __init__(self, *records: Any, has_begun: bool = True) -> None:
        self.records, self._has_begun = [*records], has_begun
        self.asked: list[str] = []

    def expect(self, port: int) -> Any:
        seen = _server.Seen()
        if self._has_begun:
            seen.begun.set()
        if self._has_begun and self.records and self.records[0]["ended"] is not None:
            seen.ended.set()
        return seen

    def forget(self, port: int) -> None: ...

    async def cancel(self, port: int) -> None:
        self.asked.append("cancel")

    async def ask(self, do: str, **arguments: Any) -> Any:
        self.asked.append(do)
        if do != "record":
            return AWAITS
        if len(self.records) > 1:
            return self.records.pop(0)
        return self.records[0] if self.records else None


AWAITS = {"place": "shop.py:3, in a", "source": "await x", "in_thread": False}


def record(**fields: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "began": 0.0,
        "ended": 1.0,
        "how": "returned",
        "raised": None,
        "told_at": None,
        "messages": [],
        "sends": [],
        "sent": 0,
        "status": None,
        "status_at": None,
        "bytes_received": 0,
        "has_whole_body": True,
        "tasks": [],
        "connections": 0,
        "files": [],
    }
    return {**usual, **fields}


@contextlib.asynccontextmanager
async def playing(server: Any, handler: Handler, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Player]:
    for name, seconds in {
        "_SECONDS_TO_SETTLE": 0.1,
        "_SECONDS_TO_BEGIN": 0.1,
        "_SECONDS_TO_BEGIN_UPLOAD": 0.1,
        "_SECONDS_TO_CLOSE": 0.2,
        "_SECONDS_AFTER_CANCEL": 0.05,
        "_SECONDS_OF_A_TURN": 0.01,
        "_SECONDS_OF_SILENCE": 0.1,
    }.items():
        monkeypatch.setattr(_play, name, seconds)
    async with serving(handler) as server.port:
        player = Player(lambda: server, Options("a:b", patience=0.2, is_quick=True), lambda what: None)
        player.server = server
        yield player


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await reader.read()


async def test_an_answer_of_the_server_s_own_is_of_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    async with playing(Told(), _answer, monkeypatch) as player:
        found = await player.stay(GET)
    assert (found.status, found.is_whole, found.sends) == (200, True, [])


async def test_a_client_that_stays_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Told(record(ended=None))
    async with playing(server, _say_nothing, monkeypatch) as player:
        found = await player.stay(GET)
    assert found.problem == "it does not answer within 2 s"
    assert server.asked[-1] == "cancel"


async def test_a_server_that_takes_the_upload_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with playing(Told(has_begun=False), _say_nothing, monkeypatch) as player:
        found = await player.depart(POST, "upload", "FIN", Stay(200))
        assert "takes the whole upload before it calls the app" in (found.not_played or "")
        found = await player.depart(GET, "before response", "FIN", Stay(200))
        assert found.not_played == "the server did not call the app for a client that had left"


async def test_a_response_that_is_over_before_a_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with playing(Told(record()), _answer, monkeypatch) as player:
        found = await player.depart(GET, "mid-stream", "FIN", Stay(200, body=b"tick"))
    assert found.not_played == "the response was over before a client could leave"


async def test_a_response_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async with playing(Told(record()), _say_nothing, monkeypatch) as player:
        found = await player.depart(GET, "first bytes", "FIN", Stay(200))
    assert found.not_played == "the server did not come so far in time"


async def test_a_connection_that_is_refused_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with playing(Told(record()), close, monkeypatch) as player:
        assert (await player.stay(GET)).problem is not None
        found = await player.depart(GET, "first bytes", "FIN", Stay(200))
    assert "closed the connection" in (found.not_played or "")


async def test_a_websocket_that_answers_no_close_frame_is_left_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        connection.receive_data(await reader.read(65536))
        for _ in connection.events():
            writer.write(connection.send(events.AcceptConnection()))
        for number in range(25):
            writer.write(connection.send(events.TextMessage(data=str(number))))
        await reader.read()

    async with playing(Told(record()), accept, monkeypatch) as player:
        stay = await player.stay(WS)
        assert stay.messages == [str(number).encode() for number in range(20)]
        found = await player.depart(WS, "open", "close frame", Stay(101))
    assert found.not_played == "the app closed it before a client could leave"


async def test_a_handler_in_a_thread_is_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Told(record(ended=None))
    monkeypatch.setitem(AWAITS, "in_thread", True)
    async with playing(server, _say_nothing, monkeypatch) as player:
        found = await player.depart(GET, "before response", "FIN", Stay(200))
    assert (found.seconds, found.in_thread, found.is_stubborn) == (None, True, None)
    assert "cancel" not in server.asked


async def test_what_is_left_has_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Told(record(tasks=["beat"]), record(tasks=["beat"]), record())
    async with playing(server, _say_nothing, monkeypatch) as player:
        monkeypatch.setattr(_play, "_SECONDS_TO_SETTLE", SECONDS)
        found = await player.depart(GET, "before response", "FIN", Stay(200))
    assert found.tasks == []


async def test_a_failure_of_one_route_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Playing:
        server: Any = None
        has_own = False
        log: list[Any] = []

        def __init__(self, *arguments: Any) -> None: ...

        async def start(self) -> None:
            self.server = Told()
            self.server.facts = {"versions": {"uvicorn": "9"}}

        async def stop(self) -> None: ...

    async def fail(*arguments: Any) -> None:
        raise CheckError("it does not start again")

    monkeypatch.setattr(_run, "Player", Playing)
    monkeypatch.setattr(_run, "_try_now", fail)
    report = Report("", "a:b", {})
    with pytest.raises(CheckError, match="it does not start again"):
        await _run.check(Options("a:b", servers=(("uvicorn", None),), routes=(GET, POST)), report, Silent())
