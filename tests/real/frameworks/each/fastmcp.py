"""fastmcp without sessions: a tool that works, and a call that is cut."""

from __future__ import annotations

from fastmcp import FastMCP  # type: ignore[import-not-found]  # it is not installed here

from .work import Work, app, at, play

__all__ = ["app"]

server: FastMCP = FastMCP("tests")


@server.tool  # type: ignore[untyped-decorator]  # it is not installed here
async def work(run: str, situation: str) -> str:
    async with Work(run, situation) as tick:
        while await tick():
            pass
    return "done"


_app = server.http_app(stateless_http=True)
play(at(_app, "/mcp"), "before", "upload", "bug", lifespan=_app)
