"""One behaviour for a Python web app when its client goes away, on every ASGI server."""

from ._errors import ClientDisconnected
from ._middleware import CancelOnDisconnect, DisconnectMiddleware, RaiseOnDisconnect
from ._options import Policy
from ._records import Disconnect, Exchange
from ._view import ClientConnection, connection

__version__ = "0.1.0"
__all__ = [
    "CancelOnDisconnect",
    "ClientConnection",
    "ClientDisconnected",
    "Disconnect",
    "DisconnectMiddleware",
    "Exchange",
    "Policy",
    "RaiseOnDisconnect",
    "__version__",
    "connection",
]
