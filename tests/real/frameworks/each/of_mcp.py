"""The MCP server of both ways to serve it."""

from __future__ import annotations

from typing import Any

from mcp.server import MCPServer  # type: ignore[import-not-found]  # it is not installed here
from mcp.server.transport_security import TransportSecuritySettings  # type: ignore[import-not-found]  # it is not installed here

from .work import Work


def serving(is_stateless: bool) -> Any:
    server = MCPServer("tests")

    @server.tool()  # type: ignore[untyped-decorator]  # it is not installed here
    async def work(run: str, situation: str) -> str:
        async with Work(run, situation) as tick:
            while await tick():
                pass
        return "done"

    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    return server.streamable_http_app(stateless_http=is_stateless, transport_security=security)
