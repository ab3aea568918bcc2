"""The middleware stands around the ASGI application: Django's own `MIDDLEWARE` never sees the client leave.

Sentry patches Django's handler, and stands inside of this one. What wraps the application (tracing, metrics) goes
outside: `application = OpenTelemetryMiddleware(DisconnectMiddleware(get_asgi_application()))`.
"""

import os

from django.core.asgi import get_asgi_application

from disconnect_mw import DisconnectMiddleware

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = DisconnectMiddleware(get_asgi_application())
