"""The app that `DISCONNECT_MW_APP` names, inside of the middleware: `uvicorn disconnect_mw.app:app`.

For images that are not to be rebuilt. `DISCONNECT_MW_APP=package.module:app`, or the path of a factory. The options are
in the environment as well, see `DisconnectMiddleware`. Raises `ValueError` on import where the variable names no app.
"""

from __future__ import annotations

from ._environment import load_app
from ._middleware import DisconnectMiddleware

app: DisconnectMiddleware = DisconnectMiddleware(load_app())
"""The app that the server is to be given."""
