"""Flask behind a2wsgi: an app in a thread, which nothing can cancel."""

from __future__ import annotations

from a2wsgi import WSGIMiddleware

from .of_flask import flask
from .work import app, play

__all__ = ["app"]

play(WSGIMiddleware(flask), "before", "stream", "upload", "form", "bug", "bug_stream")  # type: ignore[arg-type]  # typed otherwise
