"""Flask behind asgiref's adapter, which reads the whole body before it calls the app."""

from __future__ import annotations

from asgiref.wsgi import WsgiToAsgi

from .of_flask import flask
from .work import app, play

__all__ = ["app"]

play(WsgiToAsgi(flask), "before", "stream", "upload", "form")  # type: ignore[no-untyped-call]  # untyped
