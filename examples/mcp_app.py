"""The MCP Python SDK over streamable HTTP: `uvicorn mcp_app:app`. With fastmcp it is `app = server.http_app()`.

Without sessions the SDK cancels a tool whose client has left; `policy="finish"` has it go on. With sessions a tool runs
in the session's task, and goes on. The SDK logs a cut request before any middleware can act: `install()` has its logger
drop what tells of nothing but a client that has left.
"""

import asyncio

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from mcp.server import MCPServer
except ImportError:
    raise SystemExit("This example needs the MCP SDK: pip install mcp uvicorn") from None

server = MCPServer("example")


@server.tool()
async def work() -> str:
    try:
        while True:
            await asyncio.sleep(0.1)
            print("tick", flush=True)
    finally:
        print("the stream has stopped", flush=True)


app = server.streamable_http_app(stateless_http=True)
app.add_middleware(DisconnectMiddleware)
install()
