"""Clients over raw loopback sockets, which can leave in every way."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

PATIENCE = 10.0
"""Seconds after which anything that has not come is a hang."""

CLEAN_CLOSE = 1001


class Hang(AssertionError):
    """What a test waited for did not come in time."""


class Client:
    """One TCP connection to the server; `came` is what the server sent over it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each write is sent at once
        self.came = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def say(self, *parts: bytes) -> None:
        self._socket.sendall(b"".join(parts))

    def hear(self, what: bytes) -> None:
        """Read until `what` has come."""
        while what not in self.came:
            part = self._read(f"{what!r}")
            if not part:
                raise AssertionError(f"the server closed before {what!r} came; what came: {self.came[-300:]!r}")
            self.came += part

    def hear_the_end(self) -> None:
        """Read to the end of the connection, however it ends."""
        while self._read("the end of the connection"):
            pass

    def listen(self, seconds: float) -> bool:
        """Read once, for so many seconds at most; return False at the end of the connection."""
        self._socket.settimeout(seconds)
        try:
            part = self._read("anything")
        except Hang:
            return True
        self.came += part
        return bool(part)

    def _read(self, awaited: str) -> bytes:
        try:
            return self._socket.recv(65536)
        except ConnectionError:
            return b""
        except TimeoutError:
            came = f"what came: {self.came[-300:]!r}"
            raise Hang(f"HANG: {awaited} did not come in {PATIENCE} s; {came}") from None

    def leave(self, how: str) -> None:
        """Leave by `fin`, by `rst`, or by `half`: shut the sending side and read on."""
        if how == "half":
            self._socket.shutdown(socket.SHUT_WR)
            return
        if how == "rst":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "fin":
            self._empty()
        else:
            raise ValueError(f"how must be 'fin', 'rst' or 'half', not {how!r}")
        self._socket.close()

    def _empty(self) -> None:
        """Read what has arrived: with unread bytes in the buffer, close sends an RST instead of a FIN."""
        self._socket.setblocking(False)
        try:
            while self._socket.recv(65536):
                pass
        except (BlockingIOError, ConnectionError):
            pass

    def more(self, body: bytes) -> None:
        """Send the rest of an upload."""
        self.say(body)

    # HTTP/1.1

    def request(
        self, path: str, body: bytes | None = None, *, length: int | None = None, chunked: bool = False
    ) -> None:
        """Send a request. A `length` announces more than `body` holds; `chunked` leaves the last chunk out."""
        head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: localhost\r\n"
        if chunked:
            assert body is not None
            self.say(head.encode(), b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(body), body))
        elif body is None:
            self.say(head.encode(), b"\r\n")
        else:
            self.say(head.encode(), b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length), body)


class WebSocketClient(Client):
    """Speaks as much of RFC 6455 as the scenarios need."""

    def ask(self, path: str) -> None:
        """Send the opening handshake."""
        self.say(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".encode(),
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )

    def text(self, text: bytes) -> None:
        self._frame(0x1, text)

    def messages(self, messages: Iterable[str | bytes]) -> None:
        """Send text and binary messages in one write."""
        self.say(
            *(
                self._framed(0x1, message.encode()) if isinstance(message, str) else self._framed(0x2, message)
                for message in messages
            )
        )

    def close_frame(self, code: int = CLEAN_CLOSE, reason: str = "") -> None:
        self._frame(0x8, struct.pack("!H", code) + reason.encode())

    def leave(self, how: str) -> None:
        """Leave as any client does, or by `clean`: a close frame with code 1001."""
        if how == "clean":
            self.close_frame()
            return
        super().leave(how)

    def _frame(self, opcode: int, payload: bytes) -> None:
        self.say(self._framed(opcode, payload))

    def _framed(self, opcode: int, payload: bytes) -> bytes:
        assert len(payload) < 126
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked
