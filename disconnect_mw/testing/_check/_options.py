"""What is to be checked, and how: the arguments of `check`, checked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..._middleware import ASGIApp
from .. import servers as _servers
from .._behaviour import Server
from .._clients import Client, HTTPClient, WebSocketClient
from .._fields import check_app, check_flag, check_patience
from ._departures import PHASES, Phase
from ._faults import title_of

_LEAVES = (
    "leaves_after_messages",
    "leaves_after_seconds",
    "leaves_after_chunks",
    "leaves_before_accept",
    "stalls_after_messages",
)

OR_NAME = 'pass paths=["/path"], or a client for each'


@dataclasses.dataclass
class Options:
    """The arguments of `check`, after `__post_init__` as they are used."""

    app: ASGIApp
    paths: Any
    wrap: Callable[[Any], Any] | None
    phases: Iterable[Phase]
    servers: Any
    saved: Callable[[], Any] | None
    headers: Any
    unsafe: bool
    lifespan: bool
    patience: float

    def __post_init__(self) -> None:
        self.app = check_app(self.app)
        for name, what in (
            ("wrap", "of the app that returns the wrapped one"),
            ("saved", "that returns what is saved"),
        ):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(f"{name} must be a function {what}, not {value!r}")
        self.wrapped = self.app if self.wrap is None else check_app(self.wrap(self.app))
        self.phases = _choose("phases", self.phases, {phase: phase for phase in PHASES})
        self.servers = _choose("servers", self.servers, {str(server): server for server in _servers.ALL}, Server)
        for name in ("unsafe", "lifespan"):
            check_flag(name, getattr(self, name))
        check_patience(self.patience)
        self.headers = HTTPClient(headers=self.headers).headers
        if self.paths is not None:
            self.paths = [self._client(path) for path in _items("paths", self.paths)]
            if not self.paths:
                raise ValueError(f"paths is empty: {OR_NAME}; without paths those of an OpenAPI document are tried")

    def _client(self, path: Any) -> Client:
        if isinstance(path, str):
            path = HTTPClient(path)
        if not isinstance(path, (HTTPClient, WebSocketClient)):
            raise TypeError(f"paths must hold paths, HTTPClients and WebSocketClients, not {path!r}")
        for name in _LEAVES:
            if getattr(path, name, None) not in (None, False):
                raise ValueError(f"{title_of(path)} has {name}, but check has its clients leave in all ways: omit it")
        return self.with_headers(path)

    def with_headers(self, client: Client) -> Client:
        return dataclasses.replace(client, headers=(*client.headers, *self.headers))


def _choose(name: str, values: Any, known: Mapping[str, Any], kind: type | None = None) -> list[Any]:
    """Return what the names stand for. Something of `kind` stands for itself."""
    chosen = []
    for value in _items(name, values):
        if kind is not None and isinstance(value, kind):
            chosen.append(value)
        elif isinstance(value, str) and value in known:
            chosen.append(known[value])
        else:
            near = difflib.get_close_matches(str(value), known) or list(known)[:6]
            raise ValueError(f"{name} must hold {' or '.join(map(repr, near))}, not {value!r}")
    if not chosen:
        raise ValueError(f"{name} is empty: leave it out for all of them")
    return chosen


def _items(name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, HTTPClient, WebSocketClient, Server)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list, not {values!r}: put it into brackets")
    return list(values)
