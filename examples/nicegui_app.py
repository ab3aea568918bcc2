"""NiceGUI in a FastAPI app: `uvicorn nicegui_app:app`. A page's function runs in a task of its own, and goes on."""

from disconnect_mw import DisconnectMiddleware

try:
    from fastapi import FastAPI
    from nicegui import ui
except ImportError:
    raise SystemExit("This example needs NiceGUI: pip install nicegui") from None

app = FastAPI()
# First, so that it stands inside of Sentry, tracing and metrics: what is added last stands outermost.
app.add_middleware(DisconnectMiddleware)


@ui.page("/page")
async def page():
    ui.label("tick")


ui.run_with(app)
