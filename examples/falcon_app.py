"""Falcon: `gunicorn --worker-class asgi falcon_app:app`. Sentry, tracing and metrics go around this `app`.

`resp.stream` never receives: under `mute` it would go on for ever, so `cancel` stops it. A cut body is read as if it
were whole: ask `connection(req).connected` before it is kept. `install()` is for a WebSocket with two tasks, whose
exception group Falcon logs before any middleware can act.
"""

from disconnect_mw import DisconnectMiddleware
from disconnect_mw.observe.logging import install

try:
    from endpoints.falcon import api
except ImportError:
    raise SystemExit("This example needs Falcon: pip install falcon gunicorn") from None

app = DisconnectMiddleware(api, policy="cancel")
install()
