"""The frameworks, their versions, and what each is played in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..servers.pins import pins
from ..servers.setups import INSTALLED, Setup
from .situations import SITUATIONS

SERVERS: Mapping[str, Setup] = {
    "uvicorn": Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets-sansio"),
    "hypercorn": Setup("hypercorn", INSTALLED, "asyncio"),
    "granian": Setup("granian", INSTALLED, "asyncio"),
    "daphne": Setup("daphne", INSTALLED),
}

_BEFORE_AND_STREAM = ("before", "stream", "bug", "bug_stream")
_UPLOADS = ("upload", "form")
_SOCKETS = ("ws_send", "ws_receive", "ws_both", "ws_close", "bug_ws")
_ALL = (*_BEFORE_AND_STREAM, *_UPLOADS, *_SOCKETS)


@dataclass(frozen=True)
class Framework:
    """A framework. `name` is the module of its app in `each`, `package` its name on the package index."""

    name: str
    title: str
    package: str
    situations: tuple[str, ...]
    servers: tuple[str, ...] = ("uvicorn", "hypercorn", "granian")
    remark: str = ""  # on the page

    def on(self, server: str) -> list[str]:
        """The situations in which it is played on that server, in order."""
        return [
            situation
            for situation in SITUATIONS
            if situation in self.situations and not (server == "daphne" and situation in _UPLOADS)
        ]


FIRST = (
    Framework("starlette", "Starlette", "starlette", _ALL),
    Framework("fastapi", "FastAPI", "fastapi", (*_ALL, "events", "lines")),
    Framework("sse_starlette", "sse-starlette", "sse-starlette", ("events", "bug_stream")),
    Framework("django", "Django", "django", (*_BEFORE_AND_STREAM, *_UPLOADS)),
    Framework(
        "channels",
        "Channels",
        "channels",
        (*_BEFORE_AND_STREAM, "upload", *_SOCKETS),
        ("uvicorn", "hypercorn", "granian", "daphne"),
    ),
    Framework("quart", "Quart", "quart", _ALL),
    Framework("litestar", "Litestar", "litestar", (*_ALL, "events")),
    Framework("falcon", "Falcon", "falcon", (*_ALL, "events")),
    Framework("blacksheep", "BlackSheep", "blacksheep", (*_ALL, "events")),
)

_DELETED_TWICE = (
    "A bug in the clean-up of a subscription whose client has left is told or not, by chance, and beside it "
    "a ``KeyError`` of the framework's own, which deletes the subscription twice: bare, and under each policy."
)
ERRORS_BY_CHANCE = ("ariadne", "strawberry")
"""Those with that remark."""

_FLASK = (*_BEFORE_AND_STREAM, *_UPLOADS)
OTHERS = (
    Framework("socketio", "python-socketio", "python-socketio", ("upload", "ws_both")),
    Framework("mcp", "MCP Python SDK without sessions", "mcp", ("before", "upload", "bug")),
    Framework("mcp_sessions", "MCP Python SDK with sessions", "mcp", ("before", "upload", "bug")),
    Framework("fastmcp", "fastmcp", "fastmcp", ("before", "upload", "bug")),
    Framework("strawberry", "strawberry", "strawberry-graphql", ("ws_both",), remark=_DELETED_TWICE),
    Framework("ariadne", "ariadne", "ariadne", ("ws_both",), remark=_DELETED_TWICE),
    Framework("nicegui", "NiceGUI", "nicegui", ("before", "bug")),
    Framework("flask_a2wsgi", "Flask in a2wsgi", "flask", _FLASK),
    # It has one thread for all clients, which each of them would wait for.
    Framework("flask_asgiref", "Flask in asgiref", "flask", ("before", "stream", *_UPLOADS), ("uvicorn",)),
)

FRAMEWORKS: Mapping[str, Framework] = {framework.name: framework for framework in (*FIRST, *OTHERS)}

_ON_SERVERS = ("daphne", "granian", "h11", "httptools", "hypercorn", "uvicorn", "websockets", "wsproto")
_NEEDED = (*_ON_SERVERS, "a2wsgi", "anyio", "asgiref", "pydantic", "python-multipart")


def newest() -> list[str]:
    """What the environment of the newest versions has."""
    pinned = pins()
    return [f"{name}=={pinned[name]}" for name in (*_NEEDED, *(framework.package for framework in FIRST))]


OTHER_PINS: Mapping[str, str] = {
    "ariadne": "1.1.1",
    "fastmcp": "4.2.3",
    "flask": "3.1.3",
    "mcp": "2.3.0",
    "nicegui": "3.18.0",
    "strawberry-graphql": "0.341.2",
}
"""Of what the extra `test` does not have."""


def others() -> list[str]:
    """What the environment of the others has."""
    pinned = pins()
    return [
        *(f"{name}=={pinned[name]}" for name in (*_NEEDED, "fastapi", "python-socketio", "starlette")),
        *(f"{name}=={version}" for name, version in OTHER_PINS.items()),
    ]


BEFORE: Mapping[str, str] = {
    "ariadne": "1.1.0",
    "blacksheep": "2.6.3",
    "channels": "4.3.1",
    "django": "5.2.8",
    "falcon": "4.3.1",
    "fastapi": "0.164.0",
    "fastmcp": "4.1.3",  # the last one that takes the MCP SDK before the newest
    "flask": "3.1.2",
    "litestar": "2.24.0",
    "mcp": "2.2.0",
    "nicegui": "3.17.1",
    "python-socketio": "5.18.0",
    "quart": "0.22.0",
    "sse-starlette": "3.6.0",
    "starlette": "1.9.0",
    "strawberry-graphql": "0.338.0",
}
"""The version before the newest of each, played on uvicorn alone."""


def environments_before() -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """By name: the packages of frameworks that it is for, and what it has."""
    pinned = pins()
    needed = [f"{name}=={pinned[name]}" for name in _NEEDED]
    first = tuple(framework.package for framework in FIRST)
    others = tuple(dict.fromkeys(framework.package for framework in OTHERS if framework.package != "ariadne"))
    under = [f"{name}=={pinned[name]}" for name in ("fastapi", "starlette")]
    return {
        "before": (first, [*needed, *_before(*first)]),
        "others-before": (others, [*needed, *under, *_before(*others)]),
        # With another version of GraphQL's core than that of strawberry.
        "ariadne-before": (("ariadne",), [*needed, *under, *_before("ariadne"), "graphql-core<3.3"]),
    }


def _before(*names: str) -> list[str]:
    return [f"{name}=={BEFORE[name]}" for name in names]
