"""The apps that the server plays: raw probes and Starlette's, each behind `DisconnectMiddleware`."""

from . import bugs, http, http_options, of_starlette, websocket
from .probes import APPS

__all__ = ["APPS", "bugs", "http", "http_options", "of_starlette", "websocket"]
