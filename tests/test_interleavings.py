"""A listener and a streamer of one exchange, driven by hand through every interleaving of their steps.

No event loop runs: each coroutine goes from one suspension to the next, in the order that the schedule says, and the
client leaves at one point of it.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._connection import Connection

from .support.messages import CHUNK, DISCONNECT, REQUEST, START, http_scope
from .support.simulated_server import ServersWord

STEPS = 8


@types.coroutine
def pause() -> Generator[None, None, None]:
    yield


class SlowServer:
    """Each send takes one step more; the receive looks each step whether the client has gone."""

    def __init__(self, raises: bool, tells: bool) -> None:
        self.raises = raises
        self.tells = tells
        self.has_left = False
        self.incoming = [REQUEST]
        self.sent: list[tuple[Any, bool]] = []
        self.readers = 0

    async def receive(self) -> Any:
        self.readers += 1
        assert self.readers == 1, "one reader at a time"
        try:
            if self.incoming:
                return self.incoming.pop()
            while not (self.has_left and self.tells):
                await pause()
            return dict(DISCONNECT)
        finally:
            self.readers -= 1

    async def send(self, message: Any) -> None:
        self.sent.append((message, self.has_left))
        await pause()
        if self.raises and self.has_left:
            raise ServersWord


class Exchange:
    def __init__(self, server: SlowServer) -> None:
        self.connection: Connection
        self.call = DisconnectMiddleware(self.app)(http_scope(), server.receive, server.send)
        self.call.send(None)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.connection = receive.__self__
        self.receive, self.send = receive, send
        await pause()


def advance(coroutine: Coroutine[Any, Any, Any]) -> bool:
    """One step; False at the end."""
    try:
        coroutine.send(None)
    except StopIteration:
        return False
    return True


@pytest.mark.parametrize("tells", [True, False], ids=["told by receive", "not told by receive"])
@pytest.mark.parametrize("raises", [False, True], ids=["silent", "raising"])
def test_every_interleaving_of_listener_and_streamer(raises: bool, tells: bool) -> None:
    for order in itertools.product("ls", repeat=STEPS):
        for leaves_at in range(STEPS):
            server = SlowServer(raises, tells)
            exchange = Exchange(server)
            heard: list[Any] = []
            told: list[int] = []  # how many messages had reached the server when the listener heard

            async def listen() -> None:
                while True:
                    heard.append(await exchange.receive())
                    if heard[-1] == DISCONNECT:
                        told.append(len(server.sent))
                        await pause()

            async def stream() -> None:
                await exchange.send(START)
                while True:
                    await exchange.send(CHUNK)

            coroutines = {"l": listen(), "s": stream()}
            for step, name in enumerate(order):
                if step == leaves_at:
                    server.has_left = True
                assert advance(coroutines[name]), "neither ends by itself, nor does an exception come out of it"
            story = (order, leaves_at, heard, server.sent)
            state = exchange.connection.state.value
            knew = [message for message, _ in server.sent[told[0] :]] if told else []
            assert all(not message.get("body") for message in knew), story
            assert heard[:1] in ([], [REQUEST]) or (raises and heard[0] == DISCONNECT), story
            assert all(message == DISCONNECT for message in heard[1:]), story
            assert (state == "disconnected") >= bool(told), story
            if raises:
                reported = [m for m, after in server.sent if after]
                assert len(reported) <= 2, story  # the one on its way when the client left, and the one that failed
            for coroutine in coroutines.values():
                coroutine.close()
            exchange.call.close()
