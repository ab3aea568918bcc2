"""The MCP Python SDK over streamable HTTP: `uvicorn mcp_app:app`. Added first it stands inside of Sentry and tracing.

Without sessions the SDK cancels a tool whose client has left; `policy="finish"` has it go on. With sessions a tool runs
in the session's task, and goes on. The SDK logs a cut request before any middleware can act: `install()` has its logger
drop what tells of nothing but a client that has left.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from endpoints.mcp import server
except ImportError:
    raise SystemExit("This example needs the MCP SDK: pip install mcp uvicorn") from None

app = server.streamable_http_app(stateless_http=True)
app.add_middleware(DisconnectMiddleware)
install()
