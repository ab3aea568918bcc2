"""A client that speaks HTTP/2 in clear text, with prior knowledge, and can leave in every way."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.errors
import h2.events

from .clients import Client


class HTTP2Client(Client):
    """One TCP connection; `came` has the response as HTTP/1.1 would have sent it."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration())
        self._h2.initiate_connection()
        self._stream = 0
        self._flush()

    def request(
        self, path: str, body: bytes | None = None, *, length: int | None = None, chunked: bool = False
    ) -> None:
        self._stream = self._h2.get_next_available_stream_id()
        headers = [(":method", "GET" if body is None else "POST"), (":path", path)]
        headers += [(":scheme", "http"), (":authority", "localhost")]
        if body is not None and not chunked:
            headers.append(("content-length", str(len(body) if length is None else length)))
        self._h2.send_headers(self._stream, headers, end_stream=body is None)
        if body is not None:
            is_whole = length is None and not chunked
            size = self._h2.max_outbound_frame_size
            for start in range(0, len(body), size):
                part = body[start : start + size]
                self._h2.send_data(self._stream, part, end_stream=is_whole and start + size >= len(body))
        self._flush()

    def more(self, body: bytes) -> None:
        """Send the rest of an upload."""
        self._h2.send_data(self._stream, body, end_stream=True)
        self._flush()

    def leave(self, how: str) -> None:
        """Leave as any client does, or by `reset` of the last request's stream."""
        if how == "reset":
            self._h2.reset_stream(self._stream, h2.errors.ErrorCodes.CANCEL)
            self._flush()
            return
        super().leave(how)

    def _flush(self) -> None:
        self.say(self._h2.data_to_send())

    def _read(self, awaited: str) -> bytes:
        """Return what the next frames hold; nothing at the end of the connection."""
        came = b""
        while not came:
            part = super()._read(awaited)
            if not part:
                return b""
            for event in self._h2.receive_data(part):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[b":status"].decode()
                    came += f"HTTP/2 {status} OK\r\n\r\n".encode()
                elif isinstance(event, h2.events.DataReceived):
                    came += event.data
                    if event.flow_controlled_length:
                        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    came += f"[{type(event).__name__}]".encode()
            self._flush()
        return came
