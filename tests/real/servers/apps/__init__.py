"""The apps of the scenarios: bare ASGI probes and Starlette apps, each behind `DisconnectMiddleware`."""

from . import bugs, http, http_options, of_starlette, websocket
from .probes import APPS

__all__ = ["APPS", "bugs", "http", "http_options", "of_starlette", "websocket"]
