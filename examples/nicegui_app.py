"""NiceGUI in a FastAPI app: `uvicorn nicegui_app:app`. Added first it stands inside of Sentry, tracing and metrics.

A page's function runs in a task of its own, and goes on.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.nicegui import ui
    from fastapi import FastAPI
except ImportError:
    raise SystemExit("This example needs NiceGUI: pip install nicegui") from None

app = FastAPI()
app.add_middleware(DisconnectMiddleware)
ui.run_with(app)
