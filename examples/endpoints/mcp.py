"""A server of the MCP Python SDK, with a tool."""

import asyncio

from mcp.server import MCPServer

server = MCPServer("example")


@server.tool()
async def work() -> str:
    try:
        while True:
            await asyncio.sleep(0.1)
            print("tick", flush=True)
    finally:
        print("the stream has stopped", flush=True)
