"""`disconnect_mw.testing`: the records of clients and servers, and what they may not hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from disconnect_mw.testing import (
    Answers,
    HTTPClient,
    HTTPServerBehaviour,
    HTTPSimulatedServer,
    Raises,
    Server,
    WebSocketClient,
    WebSocketServerBehaviour,
    exception_class,
    servers,
)

# Clients


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"leaves_after_messages": 1, "leaves_after_seconds": 1}, ("leaves_after_messages", "leaves_after_seconds")),
        (
            {"body": [b"a", b"b"], "leaves_after_messages": 1, "leaves_after_chunks": 1},
            ("leaves_after_messages", "leaves_after_chunks"),
        ),
        (
            {"body": [b"a", b"b"], "leaves_after_seconds": 1, "leaves_after_chunks": 1},
            ("leaves_after_seconds", "leaves_after_chunks"),
        ),
        ({"leaves_after_chunks": 0}, ("leaves_after_chunks 0", "body")),
        ({"body": b"one", "leaves_after_chunks": 1}, ("leaves_after_chunks 1", "body")),
        ({"body": [b"a", b"b"], "leaves_after_chunks": 3}, ("leaves_after_chunks 3", "2 chunks")),
        ({"leaves_by": "rst"}, ("leaves_by 'rst'", "stays")),
        ({"leaves_by": "close", "leaves_after_messages": 1}, ("leaves_by", "'fin' or 'rst' or 'half'", "'close'")),
        ({"leaves_after_messages": 2, "stalls_after_messages": 1}, ("stalls_after_messages", "leaves_after_messages")),
        ({"leaves_after_messages": 1, "stalls_after_messages": 2}, ("stalls_after_messages", "leaves_after_messages")),
        ({"leaves_after_messages": -1}, ("leaves_after_messages", "-1")),
        ({"stalls_after_messages": -1}, ("stalls_after_messages", "-1")),
        ({"leaves_after_seconds": -0.1}, ("leaves_after_seconds", "-0.1")),
        ({"leaves_after_seconds": math.nan}, ("leaves_after_seconds", "nan")),
        ({"leaves_after_seconds": math.inf}, ("leaves_after_seconds", "inf")),
        ({"path": "nowhere"}, ("path", "'nowhere'", "write '/nowhere'")),
        ({"path": "http://test/x"}, ("path", "leave scheme and host out")),
        ({"path": ""}, ("path", "''")),
    ],
)
def test_an_http_client_that_asks_for_the_impossible_is_an_error_that_names_it(
    script: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as raised:
        HTTPClient(**script)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"body": "text"}, ("body", "'text'", "bytes", "encode it")),
        ({"body": ["text"]}, ("body", "bytes", "'text'")),
        ({"body": 7}, ("body", "7")),
        ({"method": 7}, ("method", "7")),
        ({"path": b"/"}, ("path", "b'/'")),
        ({"headers": [("accept",)]}, ("headers", "accept")),
        ({"headers": [("accept", 7)]}, ("headers", "accept")),
        ({"headers": ["accept"]}, ("headers", "accept")),
        ({"headers": "accept"}, ("headers", "brackets")),
        ({"leaves_after_messages": 1.0}, ("leaves_after_messages", "1.0")),
        ({"leaves_after_messages": True}, ("leaves_after_messages", "True")),
        ({"leaves_after_seconds": "1"}, ("leaves_after_seconds", "'1'")),
        ({"leaves_after_seconds": True}, ("leaves_after_seconds", "True")),
        ({"leaves_by": None}, ("leaves_by", "None")),
    ],
)
def test_an_http_client_of_the_wrong_kind_is_an_error_that_names_it(
    script: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(TypeError) as raised:
        HTTPClient(**script)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            {"leaves_before_accept": True, "leaves_after_messages": 1},
            ("leaves_before_accept", "leaves_after_messages"),
        ),
        ({"leaves_before_accept": True, "leaves_after_seconds": 1}, ("leaves_before_accept", "leaves_after_seconds")),
        ({"leaves_before_accept": True, "leaves_by": "close"}, ("leaves_by 'close'", "accept")),
        ({"leaves_after_messages": 0, "leaves_by": "close"}, ("leaves_by 'close'", "accept")),
        ({"leaves_after_messages": 1, "close_code": 1001}, ("close_code", "leaves_by 'fin'")),
        ({"leaves_after_messages": 1, "close_reason": "bye"}, ("close_reason", "leaves_by 'fin'")),
        ({"close_code": 1000}, ("close_code", "leaves_by")),
        ({"leaves_after_messages": 1, "leaves_by": "close", "close_code": 999}, ("close_code", "999")),
        ({"leaves_after_messages": 1, "leaves_by": "close", "close_code": 5000}, ("close_code", "5000")),
        ({"leaves_before_accept": True, "stalls_after_messages": 0}, ("stalls_after_messages", "leaves_before_accept")),
    ],
)
def test_a_websocket_client_that_asks_for_the_impossible_is_an_error_that_names_it(
    script: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as raised:
        WebSocketClient(**script)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "script", [{"messages": "text"}, {"messages": [7]}, {"subprotocols": "chat"}, {"leaves_before_accept": 1}]
)
def test_a_websocket_client_of_the_wrong_kind_is_an_error_that_names_it(script: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(script))):
        WebSocketClient(**script)


def test_a_clients_scope_is_what_a_server_makes_of_its_request() -> None:
    client = HTTPClient("/caf%C3%A9?q=1", headers={"Accept": "text/html"}, body=[b"a", b"b"], state={"db": 1})
    scope = client.scope()
    assert (scope["type"], scope["method"], scope["path"], scope["raw_path"]) == (
        "http",
        "POST",
        "/café",
        b"/caf%C3%A9",
    )
    assert (scope["query_string"], scope["state"]) == (b"q=1", {"db": 1})
    assert scope["headers"] == [(b"accept", b"text/html"), (b"transfer-encoding", b"chunked")]
    assert client.requests() == [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
    ]
    assert HTTPClient(headers=[(b"A", b"1"), ("b", "2")]).headers == ((b"a", b"1"), (b"b", b"2"))
    assert HTTPClient().requests() == [{"type": "http.request", "body": b"", "more_body": False}]
    assert (HTTPClient().method, HTTPClient(method="PUT").method) == ("GET", "PUT")
    scope = WebSocketClient("/chat", subprotocols=["v1"]).scope()
    assert (scope["type"], scope["subprotocols"]) == ("websocket", ["v1"])
    assert "state" not in scope


CHUNKED, LENGTH = (b"transfer-encoding", b"chunked"), b"content-length"


@pytest.mark.parametrize(
    ("fields", "http_1", "http_2"),
    [
        ({}, [], []),
        ({"method": "DELETE"}, [], []),
        ({"method": "POST"}, [(LENGTH, b"0")], [(LENGTH, b"0")]),
        ({"body": b"four"}, [(LENGTH, b"4")], [(LENGTH, b"4")]),
        ({"body": [b"four"]}, [CHUNKED], []),
        ({"body": []}, [], []),
        ({"body": [b"a", b"b"], "headers": {"Content-Length": "9"}}, [(LENGTH, b"9")], [(LENGTH, b"9")]),
        ({"body": b"a", "headers": {"Transfer-Encoding": "chunked"}}, [CHUNKED], [CHUNKED]),
    ],
)
def test_a_client_announces_its_body_as_real_ones_do(
    fields: dict[str, Any], http_1: list[Any], http_2: list[Any]
) -> None:
    client = HTTPClient(**fields)
    assert (client.scope()["headers"], client.scope("2")["headers"]) == (http_1, http_2)
    again = dataclasses.replace(client, path="/elsewhere")
    assert again.scope()["headers"] == http_1, "a replaced client is framed as it was"
    assert HTTPSimulatedServer(servers.HYPERCORN_0_18_0_HTTP2.http, client=client).scope()["headers"] == http_2


# Servers


def test_every_server_has_a_name_of_its_own_and_is_found_under_it() -> None:
    constants = {name: thing for name, thing in vars(servers).items() if isinstance(thing, Server)}
    assert list(constants.values()) == sorted(constants.values(), key=servers.ALL.index), "in the same order"
    assert len(servers.ALL) == len(constants) == len({str(server) for server in servers.ALL})
    for name, server in constants.items():
        assert str(server).replace("-", "_").replace(".", "_").upper() == name
        assert repr(server) == f"<Server {server}>"


@pytest.mark.parametrize("server", servers.ALL, ids=str)
def test_a_server_can_be_varied(server: Server) -> None:
    assert dataclasses.replace(server) == server
    patient = dataclasses.replace(server, name="patient", http=dataclasses.replace(server.http, cancels_after=0.5))
    assert (str(patient), patient.http.cancels_after, patient.websocket) == ("patient", 0.5, server.websocket)
    with pytest.raises(ValueError, match="cancels_after"):
        dataclasses.replace(server.http, cancels_after=-1)


def test_the_exceptions_go_by_the_names_and_bases_of_the_servers_own() -> None:
    raises = servers.GUNICORN_27_0_1.websocket.lost.send
    assert isinstance(raises, Raises)
    assert str(raises) == "raises gunicorn.asgi.websocket.WebSocketDisconnected"
    exception = raises.make()
    assert isinstance(exception, OSError) and isinstance(exception, RuntimeError)
    assert str(exception) == "WebSocket closed"
    raises = servers.UVICORN_0_54_0.http.send_after_end
    assert isinstance(raises, Raises)
    assert repr(raises.make({"type": "http.response.body"})) == (
        "RuntimeError(\"Unexpected ASGI message 'http.response.body' sent, after response already completed.\")"
    )
    assert str(raises) == "raises RuntimeError"
    assert exception_class("a.B").__mro__[1] is Exception


def _http(**fields: Any) -> HTTPServerBehaviour:
    return HTTPServerBehaviour(**fields)


def _websocket(**fields: Any) -> WebSocketServerBehaviour:
    return WebSocketServerBehaviour(**fields)


OSERROR = Raises(OSError)


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (_http, {"spec_version": "2"}, ("spec_version", "'2'")),
        (_http, {"spec_version": 2.3}, ("spec_version", "2.3")),
        (_http, {"cancels_after": -1}, ("cancels_after", "-1")),
        (_http, {"cancels_after": math.nan}, ("cancels_after", "nan")),
        (_http, {"send": "raises"}, ("send", "'raises'", "'silent' or 'blocks'")),
        (_http, {"send_after_end": "waits"}, ("send_after_end", "'waits'")),
        (_http, {"send": OSERROR, "send_after_reset": OSERROR}, ("send_after_reset", "http_version '1.1'")),
        (_http, {"http_version": "3"}, ("http_version", "'3'")),
        (_http, {"disconnect_comes": "never"}, ("disconnect_comes", "'never'")),
        (_http, {"disconnects": 0}, ("disconnects", "0")),
        (_http, {"disconnects_of_cut_upload": 0}, ("disconnects_of_cut_upload", "0")),
        (
            _http,
            {"disconnects_of_cut_upload": 1, "buffers_upload": True},
            ("disconnects_of_cut_upload", "buffers_upload"),
        ),
        (_http, {"buffer_size": 1}, ("buffer_size", "send 'silent'")),
        (_http, {"buffer_size": -1, "send": "blocks"}, ("buffer_size", "-1")),
        (_http, {"read_ahead": 1}, ("read_ahead", "drops_unread")),
        (_http, {"read_ahead": -1, "drops_unread": True}, ("read_ahead", "-1")),
        (_http, {"blocked_send": "wakes"}, ("blocked_send", "'wakes'", "'never blocks'")),
        (_http, {"stays_blocked": True}, ("stays_blocked", "blocked_send 'silent'")),
        (_http, {"half_close": "ignored"}, ("half_close", "'ignored'")),
        (_websocket, {"then": "repeats", "codes_of_loss": ()}, ("then 'repeats'", "codes_of_loss")),
        (_websocket, {"then": "stops"}, ("then", "'stops'")),
        (_websocket, {"codes_of_loss": (7,)}, ("codes_of_loss", "7")),
        (_websocket, {"codes_of_close": ("mine",)}, ("codes_of_close", "'mine'")),
        (_websocket, {"late_close_code": 7}, ("late_close_code", "7")),
        (_websocket, {"receive_before_accept": "blocks"}, ("receive_before_accept", "'blocks'")),
        (_websocket, {"second_reader": "wakes"}, ("second_reader", "'wakes'")),
        (_websocket, {"half_close": "ignored"}, ("half_close", "'ignored'")),
        (_websocket, {"codes_after_refusal": (7,)}, ("codes_after_refusal", "7")),
        (_websocket, {"sends_until_noticed": -1}, ("sends_until_noticed", "-1")),
        (_websocket, {"sends_until_noticed": 1}, ("sends_until_noticed", "lost.send 'silent'")),
        (Answers, {"close": "nothing"}, ("close", "'nothing'")),
        (Server, {"name": ""}, ("name", "empty")),
        (exception_class, {"name": "OSError"}, ("module", "'OSError'")),
        (exception_class, {"name": "a.b c"}, ("module", "'a.b c'")),
    ],
)
def test_a_record_with_a_contradiction_is_an_error_that_names_it(
    make: Any, fields: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as raised:
        make(**fields)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (_http, {"send": None}),
        (_http, {"send": OSError}),
        (_http, {"disconnect_comes": True}),
        (_http, {"wakes_all": "all"}),
        (_http, {"drops_unread": 1}),
        (_http, {"extensions": "http.response.push"}),
        (_http, {"disconnects": "once"}),
        (_http, {"cancels_after": "3 s"}),
        (_websocket, {"lost": None}),
        (_websocket, {"closed": "silent"}),
        (_websocket, {"codes_of_loss": None}),
        (_websocket, {"codes_of_reset": 1006}),
        (_websocket, {"gives_reason": "yes"}),
        (_websocket, {"unread_hides_disconnect": "yes"}),
        (_websocket, {"after_refusal": "silent"}),
        (_websocket, {"second_reader": None}),
        (Raises, {"kind": "OSError"}),
        (Raises, {"kind": BaseException}),
        (Raises, {"kind": OSError, "text": 7}),
        (Server, {"name": 7}),
        (Server, {"name": "mine", "http": WebSocketServerBehaviour()}),
    ],
)
def test_a_record_of_the_wrong_kind_is_an_error_that_names_it(make: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=list(fields)[-1]):
        make(**fields)
