"""The whole check: finds what to try, and tries each request without the middleware and with it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

from ..._check._routes import DOCUMENTS, read_document, routes_of_document
from .._clients import Client, HTTPClient, WebSocketClient
from .._hang import Hang
from .._visit import Exchange
from ..servers import SPEC_SILENT
from ._departures import departures, in_parts, never_tells
from ._faults import Fault, title_of
from ._lifespan import running
from ._options import OR_NAME, Options
from ._report import Report
from ._side import Side, without_middleware
from ._stays import Stay, stay_twice
from ._watch import Seen, seen_now, watching

_BARE_SHARE = 0.25
"""Of the patience. The bare app is not judged, and some servers have it hang in each route."""


class Run:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._state: dict[str, Any] = {}
        self._notes: dict[str, None] = {}
        self._faults: list[Fault] = []
        self._mended: list[Fault] = []
        self._requests: list[str] = []
        self._departures = 0

    async def report(self) -> Report:
        began, options = time.monotonic(), self._options
        async with contextlib.AsyncExitStack() as stack:
            if options.lifespan:
                self._state = await stack.enter_async_context(running(options.wrapped))
            watch_pools = stack.enter_context(watching())
            stays = []
            for client in await self._find():
                stays.append((client, await stay_twice(options.app, client, SPEC_SILENT, options.patience)))
                watch_pools()
            for client, first in stays:
                if self._can_be_left(client, first):
                    await self._try(client, first)
        if not self._requests:
            raise ValueError("; ".join([f"no path could be tried: {OR_NAME}", *self._notes]))
        return Report(
            faults=tuple(self._faults),
            mended=tuple(self._mended),
            requests=tuple(self._requests),
            notes=tuple(self._notes),
            departures=self._departures,
            servers=len(options.servers),
            seconds=time.monotonic() - began,
        )

    def _note(self, sentence: str) -> None:
        self._notes[sentence] = None

    # What to try

    async def _find(self) -> list[Client]:
        """Return the clients to play, with their bodies in parts."""
        clients = self._options.paths
        if clients is None:
            found = routes_of_document(
                await self._read_document(), is_unsafe=self._options.unsafe, unsafe="unsafe=True", named_by="paths"
            )
            clients = [
                self._options.with_headers(
                    HTTPClient(one.path, method=one.method, headers=one.headers, body=one.body or b"")
                )
                for one in found.routes
            ]
            for sentence in (*found.left_out, "WebSockets are not in an OpenAPI document: name them by paths"):
                self._note(sentence)
        return [in_parts(self._with_state(client)) for client in clients]

    def _with_state(self, client: Client) -> Client:
        return dataclasses.replace(client, state={**self._state, **(client.state or {})}) if self._state else client

    async def _read_document(self) -> Any:
        for path in DOCUMENTS:
            client = self._with_state(HTTPClient(path, headers=self._options.headers))
            token = seen_now.set(Seen())  # so that what it logs of a 404 is not shown
            outcome = await Exchange(self._options.app, client, SPEC_SILENT, self._options.patience).play()
            seen_now.reset(token)
            if isinstance(outcome, Hang) or outcome.status != 200:
                continue
            try:
                return read_document(outcome.body)
            except ValueError as error:
                raise ValueError(f"{path}: {error}: {OR_NAME}") from None
        raise ValueError(f"the app serves no OpenAPI document at {', '.join(DOCUMENTS)}: {OR_NAME}")

    def _can_be_left(self, client: Client, first: Stay) -> bool:
        """Whether it is answered. Raises `ValueError` for one that was named and is wrong."""
        problem, status = "", first.status
        if first.error:
            problem = f"raises {first.error} while its client stays: mend that first"
        elif isinstance(client, WebSocketClient) and status is not None:
            problem = f"is refused with {status}: look for a misspelling, or give the headers that it needs"
        elif status in (404, 405) or (status is not None and status >= 500):
            problem = (
                f"is answered {status}: look for a misspelling, or give the method, headers and body that it needs"
            )
        elif self._options.paths is None and status is not None and status >= 400:
            problem = f"is answered {status}: name it in paths, with the headers and the body that it needs"
        if problem and self._options.paths is not None:
            raise ValueError(f"{title_of(client)} {problem}")
        if problem:
            self._note(f"{title_of(client)} {problem}")
        elif not first.delivered:
            self._note(
                f"{title_of(client)} is not answered within {self._options.patience:g} s, so clients leave before that "
                "only: give more patience"
            )
        return not problem

    # One request

    async def _try(self, client: Client, first: Stay) -> None:
        options, title = self._options, title_of(client)
        leaving = list(departures(client, first, options.servers, options.phases))
        if not leaving:
            self._note(f"{title} has none of the phases: {', '.join(options.phases)}")
            return
        self._requests.append(title)
        if isinstance(client, WebSocketClient):
            for server in filter(lambda server: never_tells(server.websocket), options.servers):
                self._note(f"{server} never tells of a WebSocket that was lost by FIN: not tried")
        bare_patience = options.patience * (1 if options.wrap is None else _BARE_SHARE)
        bare = Side(options.app, client, first, bare_patience, options.saved, advises_install=True)
        with without_middleware() if first.has_middleware else contextlib.nullcontext():
            await bare.play(leaving)
        self._departures += len(bare.played)
        if options.wrap is None:
            self._faults += bare.faults.all()
            return
        app = options.app if first.has_middleware else options.wrapped
        wrapped = Side(app, client, first, options.patience, options.saved, advises_install=False)
        await wrapped.play(leaving)
        self._departures += len(wrapped.played)
        _compare(wrapped, bare, first)
        self._faults += wrapped.faults.all()
        kinds = {fault.kind for fault in wrapped.faults.all()}
        self._mended += [fault for fault in bare.faults.all() if fault.kind not in kinds]


def _compare(wrapped: Side, bare: Side, first: Stay) -> None:
    """Find where a client that stays gets another answer than elsewhere, on one of the sides only."""
    for departure, ours in wrapped.stays.values():
        theirs = bare.stays[departure.servers][1]
        for side, stayed, which in ((wrapped, ours, "with"), (bare, theirs, "without")):
            different = ours.differences(theirs) & stayed.differences(first) - first.varying
            if different:
                sentence = f"A client that stays gets another {', '.join(sorted(different))} {which} the middleware"
                side.faults.add("different answer", "", sentence, departure)
