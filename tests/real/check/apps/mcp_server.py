"""A server of the MCP Python SDK with a tool that only reads."""

import asyncio

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("check")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))
async def search(query: str) -> str:
    await asyncio.sleep(0.3)
    return query


@server.tool()
async def delete(name: str) -> str:
    raise NotImplementedError


app = server.streamable_http_app()
stateless = server.streamable_http_app(stateless_http=True)
