"""`check`: what an app does when its clients leave, on every measured server, without the middleware and with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal

from ... import _backends
from ..._middleware import DisconnectMiddleware
from .. import servers as _servers
from .._behaviour import Server
from .._clients import Headers, HTTPClient, WebSocketClient
from .._visit import run_now
from ._departures import PHASES, Phase
from ._faults import Fault, FaultKind
from ._options import Options
from ._report import FaultsFound, Report
from ._run import Run

__all__ = ["PHASES", "Fault", "FaultKind", "FaultsFound", "Phase", "Report", "check", "check_now"]

__tracebackhide__ = True  # pytest leaves the frames of this module out


def check(
    app: Any,
    paths: Iterable[str | HTTPClient | WebSocketClient] | None = None,
    *,
    wrap: Callable[[Any], Any] | None = DisconnectMiddleware,
    phases: Iterable[Phase] = PHASES,
    servers: Iterable[Server | str] = _servers.ALL,
    saved: Callable[[], Any] | None = None,
    headers: Headers = (),
    unsafe: bool = False,
    lifespan: bool = True,
    patience: float = 2.0,
    raise_faults: bool = True,
) -> Coroutine[Any, Any, Report]:
    """Have clients of `app` leave in every way, on every server, and tell what misbehaves: `await check(app)`.

    Each of `paths` is a path, for a GET, or a client that says method, headers, body or messages, and not when it
    leaves: that is tried in each of `phases`, on simulated servers with the behaviour of each of `servers`, which may
    be given by name; once with the bare app and once with the wrapped one. Another client stays, as the control.
    Without `paths` those of the app's OpenAPI document are taken, with example bodies, and only with `unsafe` those
    that may write (POST, PUT, PATCH, DELETE). `headers` are added to each request.

    `wrap` is called with the app and returns the wrapped one: `lambda app: DisconnectMiddleware(app, policy="cancel")`.
    An app that has the middleware already is taken as it is, and its middleware does nothing where it is to be bare.
    None: the bare app is judged.

    Found are handlers that never end, also where they are cancelled, tasks and connections of SQLAlchemy's pools that
    are left behind, tracebacks, uploads of which a half is kept, and answers that are not the same with the middleware
    (`Fault.kind`). A half is seen where it is answered as the whole, and in files; elsewhere with `saved`, a function,
    which may be async, that returns what is saved: it must return the same after an upload that was cut as before.

    A handler has `patience` seconds to end after its client has left or its server has cancelled it, and as long as it
    takes for a client that stays; in the bare app, which is not judged, a quarter of it. The servers that cancel it do
    so after a tenth of a second. Up to 32 exchanges run side by side, 5 where they use a pool of SQLAlchemy's, uploads
    that are cut one by one. The app's lifespan is run, unless `lifespan` is False.

    Returns a `Report`. Raises `FaultsFound`, an `AssertionError` with the text of the report, where there are faults
    and `raise_faults` is not False. Raises `TypeError` or `ValueError` for an argument that is wrong, for one of
    `paths` that is a 404 or fails while its client stays, and where no path is found; `RuntimeError` where the app
    does not start, or where no event loop runs: there, `check_now(app)`; `ImportError` where an example of a
    parameter or a body is to be made, which needs the extra `check`.
    """
    options = Options(app, paths, wrap, phases, servers, saved, headers, unsafe, lifespan, patience)
    if _backends.current()[1] is None:
        raise RuntimeError("check is to be awaited, and no event loop runs here: use check_now(...)")
    return _check(options, raise_faults)


async def _check(options: Options, raise_faults: bool) -> Report:
    report = await Run(options).report()
    if raise_faults and report.faults:
        raise FaultsFound(report)
    return report


def check_now(
    app: Any,
    paths: Iterable[str | HTTPClient | WebSocketClient] | None = None,
    *,
    wrap: Callable[[Any], Any] | None = DisconnectMiddleware,
    phases: Iterable[Phase] = PHASES,
    servers: Iterable[Server | str] = _servers.ALL,
    saved: Callable[[], Any] | None = None,
    headers: Headers = (),
    unsafe: bool = False,
    lifespan: bool = True,
    patience: float = 2.0,
    raise_faults: bool = True,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> Report:
    """As `check`, for synchronous code: runs it in a new event loop, of asyncio or trio by `backend`.

    Raises `RuntimeError` where an event loop runs already: there, `await check(app)`.
    """
    options = Options(app, paths, wrap, phases, servers, saved, headers, unsafe, lifespan, patience)
    return run_now(functools.partial(_check, options, raise_faults), "check", backend)
