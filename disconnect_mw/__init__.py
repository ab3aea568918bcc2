"""One behaviour for a Python web app when its client goes away, on every ASGI server."""

from ._errors import ClientDisconnected
from ._middleware import DisconnectMiddleware

__version__ = "0.1.0"
__all__ = ["ClientDisconnected", "DisconnectMiddleware", "__version__"]
