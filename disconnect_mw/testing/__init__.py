"""Servers and clients in memory, to test what an ASGI app does when its client leaves."""

from . import servers
from ._behaviour import (
    Answers,
    HTTPServerBehaviour,
    Raises,
    Server,
    ServerBehaviour,
    WebSocketServerBehaviour,
    exception_class,
)
from ._clients import HTTPClient, WebSocketClient
from ._hang import Hang
from ._simulated_server import HTTPSimulatedServer, SimulatedServer, WebSocketSimulatedServer
from ._transcript import Transcript
from ._visit import visit, visit_now

__all__ = [
    "Answers",
    "SimulatedServer",
    "HTTPClient",
    "HTTPSimulatedServer",
    "HTTPServerBehaviour",
    "Hang",
    "Raises",
    "Server",
    "ServerBehaviour",
    "Transcript",
    "WebSocketClient",
    "WebSocketSimulatedServer",
    "WebSocketServerBehaviour",
    "exception_class",
    "servers",
    "visit",
    "visit_now",
]
