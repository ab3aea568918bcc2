"""Channels: `daphne channels_app:application`. Sentry, tracing and metrics go around this `application`.

An HTTP consumer that streams never receives: under `mute` it would go on for ever, so `cancel` stops it. A WebSocket
consumer is told by `disconnect()`; leave `websocket_policy` as it is, since one that is cancelled misses that.
"""

from disconnect_mw import DisconnectMiddleware

try:
    from channels.routing import ProtocolTypeRouter
    from endpoints.channels import routes
except ImportError:
    raise SystemExit("This example needs Channels: pip install channels daphne") from None

application = DisconnectMiddleware(ProtocolTypeRouter({"http": routes}), policy="cancel")
