"""The MCP Python SDK over streamable HTTP with sessions, in whose tasks the tools run."""

from __future__ import annotations

from .of_mcp import serving
from .work import app, at, lasting, play

__all__ = ["app"]

_app = serving(is_stateless=False)
lasting("anyio")  # the sessions' tasks
play(at(_app, "/mcp"), "before", "upload", "bug", lifespan=_app)
