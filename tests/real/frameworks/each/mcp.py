"""The MCP Python SDK over streamable HTTP without sessions: a tool that works, and a call that is cut."""

from __future__ import annotations

from .of_mcp import serving
from .work import app, at, play

__all__ = ["app"]

_app = serving(is_stateless=True)
play(at(_app, "/mcp"), "before", "upload", "bug", lifespan=_app)
