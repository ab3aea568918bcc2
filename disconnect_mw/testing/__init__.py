"""A far side in memory, to test what an ASGI application does when its client leaves."""

from . import servers
from ._clients import HTTPClient, WebSocketClient
from ._far_side import FarSide, HTTPFarSide, WebSocketFarSide
from ._hang import Hang
from ._manners import Answers, HTTPManners, Raises, Server, WebSocketManners, exception_class
from ._transcript import Transcript
from ._visit import visit, visit_now

__all__ = [
    "Answers",
    "FarSide",
    "HTTPClient",
    "HTTPFarSide",
    "HTTPManners",
    "Hang",
    "Raises",
    "Server",
    "Transcript",
    "WebSocketClient",
    "WebSocketFarSide",
    "WebSocketManners",
    "exception_class",
    "servers",
    "visit",
    "visit_now",
]
