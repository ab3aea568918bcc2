"""fastmcp over streamable HTTP: `uvicorn fastmcp_app:app`. Listed last it stands inside of Sentry and tracing.

Tools and the log are as with the MCP Python SDK, on which it stands: see `mcp_app.py`.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from endpoints.fastmcp import server
    from starlette.middleware import Middleware
except ImportError:
    raise SystemExit("This example needs fastmcp: pip install fastmcp uvicorn") from None

app = server.http_app(stateless_http=True, middleware=[Middleware(DisconnectMiddleware)])
install()
