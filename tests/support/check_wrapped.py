"""The app of `check_app`, which has the middleware itself. It is imported from this directory, by servers."""

from __future__ import annotations

import check_app  # type: ignore[import-not-found]  # as the servers find it

from disconnect_mw import DisconnectMiddleware

app = DisconnectMiddleware(check_app.app, policy="cancel")
