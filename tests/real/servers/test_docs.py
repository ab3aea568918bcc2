"""`docs/servers.rst` says what the records say."""

from __future__ import annotations

import dataclasses

import pytest

from disconnect_mw.testing import HTTPServerBehaviour, Raises, WebSocketServerBehaviour, exception_class

from . import docs


def test_the_page_is_the_one_that_the_records_make() -> None:
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "run python -m tests.real.servers.docs"


@pytest.mark.parametrize("server", docs.MEASURED, ids=str)
def test_every_record_is_on_the_page(server: object) -> None:
    name, version, *_ = str(server).split("-")
    rows = [line for line in docs.page().splitlines() if line.startswith("   * - ")]
    assert sum(name in row and version in row for row in rows) >= 3, "HTTP, WebSocket and what the scope claims"


def test_servers_that_are_alike_share_a_row() -> None:
    first = next(server for server in docs.MEASURED if str(server) == "uvicorn-0.27.0")
    other = next(server for server in docs.MEASURED if str(server) == "uvicorn-0.54.0")
    assert docs.names([first, other]) == "uvicorn 0.27.0, 0.54.0"
    rows = docs.table({first: first.http, other: other.http}, docs.HTTP_COLUMNS).count("* - ")
    assert rows == 2, "the head and one"
    raising = dataclasses.replace(other.http, send=Raises(OSError))
    assert docs.table({first: first.http, other: raising}, docs.HTTP_COLUMNS).count("* - ") == 3


def test_a_cell_says_what_the_record_says() -> None:
    gone = Raises(exception_class("server.Gone", OSError))
    http, websocket = docs.HTTP_COLUMNS, {**docs.WEBSOCKET_SENDS, **docs.WEBSOCKET_RECEIVES}
    told = [
        cell(HTTPServerBehaviour(send=gone, disconnects=1, wakes_all=False, drops_unread=True))
        for cell in http.values()
    ]
    assert told[:4] == ["raises ``server.Gone (OSError)``", "once", "one", "is lost"]
    behaviour = WebSocketServerBehaviour(codes_of_loss=(), codes_of_reset=(None, 1006), then="waits")
    assert websocket["connection lost"](behaviour) == "FIN: waits; RST: no code, 1006, then waits"
