"""Flask in a2wsgi: `uvicorn flask_app:app`. Sentry, tracing and metrics go around this `app`.

Its thread cannot be cancelled, under no policy: ask `connection(request.environ["asgi.scope"]).connected` between two
steps of long work. The middleware finds that out where there is a hook, a `grace`, or a policy other than `mute`.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from a2wsgi import WSGIMiddleware
    from endpoints.flask import flask
except ImportError:
    raise SystemExit("This example needs Flask and a2wsgi: pip install flask a2wsgi uvicorn") from None

app = DisconnectMiddleware(WSGIMiddleware(flask), policy="finish")
