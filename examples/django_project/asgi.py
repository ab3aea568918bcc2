"""The middleware stands around the ASGI application: Django's own `MIDDLEWARE` never sees the client leave.

Sentry patches Django's handler, and stands inside of this one. What wraps the application (tracing, metrics) goes
outside: `application = OpenTelemetryMiddleware(DisconnectMiddleware(get_asgi_application()))`.
"""

import os

from disconnect_mw import DisconnectMiddleware

try:
    import daphne  # noqa: F401  # it is among the settings' apps
    from django.core.asgi import get_asgi_application
except ImportError:
    raise SystemExit("This example needs Django and Daphne: pip install django daphne") from None

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = DisconnectMiddleware(get_asgi_application())
