"""Servers and clients in memory, to test what an ASGI app does when its client leaves.

`visit` plays one exchange of an `HTTPClient` or a `WebSocketClient`, which says what it requests and when it leaves,
with an app on a simulated server, and returns its `Transcript`; `visit_now` is the same for synchronous code. In pytest
`asgi_visit(app, client)` does so on each measured server.

`check` has clients leave each path of an app in every way, and returns a `Report`; `check_now` is the same for
synchronous code, and `asgi_check(app, paths)` in pytest.

`servers` has the measured servers, each a `Server` whose behaviour is data. A `SimulatedServer` gives `receive` and
`send` to tests that call an app themselves. docs/testing.rst shows them all.
"""

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
from ._check import PHASES, Fault, FaultKind, FaultsFound, Phase, Report, check, check_now
from ._clients import HTTPClient, WebSocketClient
from ._hang import Hang
from ._simulated_server import HTTPSimulatedServer, SimulatedServer, WebSocketSimulatedServer
from ._transcript import Transcript
from ._visit import visit, visit_now

__all__ = [
    "Answers",
    "Fault",
    "FaultKind",
    "FaultsFound",
    "HTTPClient",
    "HTTPSimulatedServer",
    "HTTPServerBehaviour",
    "Hang",
    "PHASES",
    "Phase",
    "Raises",
    "Report",
    "Server",
    "ServerBehaviour",
    "SimulatedServer",
    "Transcript",
    "WebSocketClient",
    "WebSocketSimulatedServer",
    "WebSocketServerBehaviour",
    "check",
    "check_now",
    "exception_class",
    "servers",
    "visit",
    "visit_now",
]
