"""Real clients over loopback sockets, which stay, or leave at any point by FIN, RST, RST_STREAM or a close frame."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h11
import wsproto
from wsproto import events
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ._routes import Route

_RECEIVE_BUFFER = 16 * 1024
"""Bytes that the kernel keeps for a client that does not read: little, so that a server notices."""


class Refused(Exception):
    """The server has not done what a client may expect: closed, or spoken another protocol."""


class Client(abc.ABC):
    """One TCP connection to a server of the check. `port` is its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self.port: int = connection.getsockname()[1]

    @classmethod
    async def connect(cls, port: int) -> Self:
        connection = socket.socket()
        connection.setblocking(False)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    async def _write(self, content: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._socket, content)
        except OSError as error:
            raise Refused(f"the server closed the connection: {error}") from None

    async def _read(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._socket, 65536)
        except OSError:
            return b""

    async def leave(self, way: str) -> None:
        """Leave by "FIN" or "RST", and more where the protocol has more."""
        if way == "RST":
            # Lingering for no time makes the kernel drop what is unsent and send an RST.
            numbers = "hh" if sys.platform == "win32" else "ii"
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(numbers, 1, 0))
        else:
            # Without a shutdown, close sends an RST where data has come in unread.
            with contextlib.suppress(OSError):  # the server may have closed first
                self._socket.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        self._socket.close()

    @abc.abstractmethod
    async def ask(self, route: Route, *, is_cut: bool = False) -> None:
        """Send the request, or, cut, its head and half of its body. Raises `Refused`."""

    @abc.abstractmethod
    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Wait for the head of the response. Raises `Refused` if the server closes."""

    @abc.abstractmethod
    async def more(self) -> bytes | None:
        """Wait for more of the body, or for a WebSocket's next message; None at the end."""


def _headers(route: Route) -> list[tuple[str, str]]:
    return [("user-agent", "disconnect-mw check"), ("accept", "*/*"), *route.headers]


class HTTPClient(Client):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, route: Route, *, is_cut: bool = False) -> None:
        headers = [("host", "localhost"), *_headers(route)]
        if route.body is not None:
            headers.append(("content-length", str(len(route.body))))
        parts = [self._h11.send(h11.Request(method=route.method, target=route.path, headers=headers))]
        body = route.body or b""
        if is_cut:
            body = body[: len(body) // 2]
        if body:
            parts.append(self._h11.send(h11.Data(data=body)))
        if not is_cut:
            parts.append(self._h11.send(h11.EndOfMessage()))
        await self._write(b"".join(part for part in parts if part))

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        while not isinstance(event := await self._event(), h11.Response):
            pass  # an informational one
        return event.status_code, [(name.decode(), value.decode("latin-1")) for name, value in event.headers]

    async def more(self) -> bytes | None:
        event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _event(self) -> Any:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self._read())
        except h11.RemoteProtocolError as error:
            raise Refused(f"the server closed the connection, or broke HTTP: {error}") from None
        return event


class HTTP2Client(Client):
    """Speaks HTTP/2 in clear text, with prior knowledge."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="latin-1"))
        self._h2.initiate_connection()
        self._stream = 1
        self._events: list[Any] = []

    async def ask(self, route: Route, *, is_cut: bool = False) -> None:
        fields = [(":method", route.method), (":path", route.path), (":scheme", "http"), (":authority", "localhost")]
        fields += [(name.lower(), value) for name, value in _headers(route)]
        body = route.body or b""
        if route.body is not None:
            fields.append(("content-length", str(len(body))))
        self._h2.send_headers(self._stream, fields, end_stream=not body)
        size = min(self._h2.max_outbound_frame_size, self._h2.local_flow_control_window(self._stream))
        sent = body[: min(size, len(body) // 2 if is_cut else len(body))]
        if sent:
            self._h2.send_data(self._stream, sent, end_stream=sent == body)
        await self._write(self._h2.data_to_send())

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        event = await self._event(h2.events.ResponseReceived)
        if event is None:
            raise Refused("the server closed the stream without an answer")
        fields = [(str(name), str(value)) for name, value in event.headers]
        return int(dict(fields)[":status"]), [field for field in fields if not field[0].startswith(":")]

    async def more(self) -> bytes | None:
        event = await self._event(h2.events.DataReceived)
        return None if event is None else bytes(event.data)

    async def _event(self, kind: type) -> Any:
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, kind):
                    return event
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    return None
            content = await self._read()
            if not content:
                return None
            self._events += self._h2.receive_data(content)
            for event in self._events:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            await self._write(self._h2.data_to_send())

    async def leave(self, way: str) -> None:
        if way == "RST_STREAM":
            self._h2.reset_stream(self._stream, h2.errors.ErrorCodes.CANCEL)
            await self._write(self._h2.data_to_send())  # the connection stays, as a browser's does
            return
        await super().leave(way)


class WebSocketClient(Client):
    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._parts: list[bytes] = []

    async def ask(self, route: Route, *, is_cut: bool = False) -> None:
        offered = [value for name, value in route.headers if name.lower() == "sec-websocket-protocol"]
        others: Sequence[tuple[str, str]] = [
            one for one in _headers(route) if one[0].lower() != "sec-websocket-protocol"
        ]
        request = events.Request(
            host="localhost",
            target=route.path,
            extra_headers=[(name.encode(), value.encode()) for name, value in others],
            subprotocols=[name.strip() for value in offered for name in value.split(",")],
        )
        await self._write(self._ws.send(request))

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        event = await self._event()
        if isinstance(event, events.AcceptConnection):
            return 101, [] if event.subprotocol is None else [("sec-websocket-protocol", event.subprotocol)]
        if isinstance(event, events.RejectConnection):
            return event.status_code, []
        raise Refused("the server closed the connection without an answer to the handshake")

    async def say(self, text: str) -> None:
        await self._write(self._ws.send(events.TextMessage(data=text)))

    async def more(self) -> bytes | None:
        while True:
            event = await self._event()
            if isinstance(event, (events.TextMessage, events.BytesMessage)):
                part = event.data
                self._parts.append(part.encode() if isinstance(part, str) else bytes(part))
                if event.message_finished:
                    whole, self._parts = b"".join(self._parts), []
                    return whole
            elif isinstance(event, events.Ping):
                await self._write(self._ws.send(event.response()))
            elif event is None or isinstance(event, events.CloseConnection):
                return None

    async def _event(self) -> Any:
        while True:
            for event in self._ws.events():
                return event
            content = await self._read()
            if not content:
                return None
            try:
                self._ws.receive_data(content)
            except RemoteProtocolError as error:
                raise Refused(f"the server broke the WebSocket protocol: {error}") from None

    async def leave(self, way: str) -> None:
        if way == "close frame":
            with contextlib.suppress(LocalProtocolError, Refused):  # the server may have closed first
                await self._write(self._ws.send(events.CloseConnection(code=1001)))
                while await self.more() is not None:  # its answer
                    pass
        await super().leave(way)


def client_of(route: Route, way: str) -> type[Client]:
    """The kind of client that tries a route and leaves that way."""
    if route.protocol == "websocket":
        return WebSocketClient
    return HTTP2Client if way == "RST_STREAM" else HTTPClient
