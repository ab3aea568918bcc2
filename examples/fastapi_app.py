"""FastAPI: `fastapi run fastapi_app.py`. Added first it stands inside of Sentry, tracing and metrics, as it should."""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.fastapi import router
    from fastapi import FastAPI
except ImportError:
    raise SystemExit('This example needs FastAPI: pip install "fastapi[standard]"') from None

app = FastAPI()
app.add_middleware(DisconnectMiddleware)
app.include_router(router)
