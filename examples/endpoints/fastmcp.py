"""A server of fastmcp, with a tool."""

import asyncio

from fastmcp import FastMCP

server = FastMCP("example")


@server.tool
async def work() -> str:
    try:
        while True:
            await asyncio.sleep(0.1)
            print("tick", flush=True)
    finally:
        print("the stream has stopped", flush=True)
