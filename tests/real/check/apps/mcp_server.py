"""A server of the MCP Python SDK with a tool that only reads."""

import asyncio

from mcp.server import MCPServer  # type: ignore[import-not-found]  # the SDK is not in the extra `test`
from mcp.types import ToolAnnotations  # type: ignore[import-not-found]

server = MCPServer("check")


@server.tool(annotations=ToolAnnotations(readOnlyHint=True))  # type: ignore[untyped-decorator]
async def search(query: str) -> str:
    await asyncio.sleep(0.3)
    return query


@server.tool()  # type: ignore[untyped-decorator]
async def delete(name: str) -> str:
    raise AssertionError("it may write, so it is not called")


app = server.streamable_http_app()
stateless = server.streamable_http_app(stateless_http=True)
