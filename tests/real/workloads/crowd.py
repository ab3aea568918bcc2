"""Many clients of a server, who leave at once; and what that does to it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from ..servers.clients import PATIENCE, Client
from ..servers.server import Server
from ..servers.setups import INSTALLED, Setup

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio")

WAYS = ("fin", "rst")

AT_A_TIME = 250
"""Connections that wait to be accepted. The server lets some 2,000 wait."""

_numbers = count()


class Guest(Client):
    """One of many: it comes from an address that is not everybody's, or else the ports would run short."""

    def __init__(self, port: int, address: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0))
        self.came = b""


def gather(port: int, path: str, size: int) -> list[Guest]:
    """So many clients that have each got the first event of a stream."""
    guests: list[Guest] = []
    while len(guests) < size:
        # On Linux all addresses that begin with 127 are the machine's own.
        address = f"127.0.0.{2 + next(_numbers) % 200}" if sys.platform == "linux" else "127.0.0.1"
        arriving = [Guest(port, address) for _ in range(min(AT_A_TIME, size - len(guests)))]
        for guest in arriving:
            guest.request(path)
        for guest in arriving:
            guest.hear(b"\n\n")
        guests += arriving
    return guests


@dataclass(frozen=True)
class Census:
    """What there is in the server's process."""

    streams: int
    tasks: int
    objects: int  # that the garbage collector knows of
    blocks: int  # of memory
    bytes: int  # that the process holds; 0 where nobody tells


@dataclass(frozen=True)
class Storm:
    """What it did to the server."""

    streams: int
    left: int  # of them, half a minute later
    turn: float  # the longest turn of the event loop, in seconds of CPU: what else the machine does is not measured
    on_the_wall: float  # the same by the clock
    collecting: float  # of it, a full garbage collection
    seconds: float  # by the clock, until the last handler had ended


def census(server: Server, enough: int | None = None) -> Census:
    """If there are more blocks than `enough`, a while later."""
    with Client(server.port) as client:
        client.request("/census/-/-" if enough is None else f"/census/-/-?blocks={enough}")
        return Census(**_json(client, PATIENCE))


def storm(server: Server, app: str, variant: str, size: int, how: str) -> Storm:
    return disperse(server, gather(server.port, server.visit(app, variant).path, size), how)


def disperse(server: Server, guests: list[Guest], how: str) -> Storm:
    """Have all of them leave before the server looks at any."""
    since = server.count
    with Client(server.port) as client:
        client.request("/storm/-/-")
        gate = server.wait(lambda event: "gate" in event, "gate", since=since)["gate"]
        for guest in guests:
            guest.leave(how)
        socket.create_connection(("127.0.0.1", gate), PATIENCE).close()
        return Storm(**_json(client, 4 * PATIENCE))


def _json(client: Client, seconds: float) -> Any:
    assert client.listen(seconds)
    client.hear(b"}")
    return json.loads(client.came.partition(b"\r\n\r\n")[2])


def serving(setup: Setup = SETUP) -> Server:
    return Server(sys.executable, setup, "workloads.storm:app", (Path(__file__).parent,))


def ratio(storms: Sequence[Storm], others: Sequence[Storm]) -> float:
    """How much longer the longest turn is than in `others`, where the least came in between."""
    return min(storm.turn for storm in storms) / min(storm.turn for storm in others)
