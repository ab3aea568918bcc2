"""Quart: `quart --app quart_app run`. `app` stays the Quart object, with its decorators and its command.

Wrap `app.asgi_app` before Sentry, tracing and metrics do, so that these stand outside. Quart cancels a handler whose
client has left. What is to go on all the same has `policy="finish"`, or stands in
`async with disconnect_mw.connection(request).shield():`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from endpoints.quart import blueprint
    from quart import Quart
except ImportError:
    raise SystemExit("This example needs Quart: pip install quart") from None

app = Quart(__name__)
app.asgi_app = DisconnectMiddleware(app.asgi_app)
app.register_blueprint(blueprint)
