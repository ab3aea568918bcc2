"""P3: which message ends an exchange, and what an exchange lacks until then (P11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from disconnect_mw import _messages
from disconnect_mw._messages import (
    Remaining,
    after_http,
    after_websocket,
    announces_body,
    copy_messages,
    field,
    is_in_order,
    with_code,
    without_length,
)

Words = Mapping[str, Any]


def start(**more: Any) -> Words:
    return {"type": "http.response.start", "status": 200, "headers": [], **more}


def body(**more: Any) -> Words:
    return {"type": "http.response.body", **more}


def trailers(**more: Any) -> Words:
    return {"type": "http.response.trailers", "headers": [], **more}


def pathsend() -> Words:
    return {"type": "http.response.pathsend", "path": "report.pdf"}


def zerocopysend(**more: Any) -> Words:
    return {"type": "http.response.zerocopysend", "file": 3, **more}


def denial_start() -> Words:
    return {"type": "websocket.http.response.start", "status": 403, "headers": []}


def denial_body(**more: Any) -> Words:
    return {"type": "websocket.http.response.body", **more}


ACCEPT: Words = {"type": "websocket.accept"}
TEXT: Words = {"type": "websocket.send", "text": "hello"}
CLOSE: Words = {"type": "websocket.close", "code": 1000}

MORE = body(body=b"x", more_body=True)
END = body(body=b"x")


def remaining_after(
    messages: list[Words], remaining: Remaining, after: Callable[[Remaining, Words], Remaining]
) -> list[list[str]]:
    """The types of what remains after each of `messages`."""
    result = []
    for message in messages:
        remaining = after(remaining, message)
        result.append([lacking["type"].split(".", 1)[1] for lacking in remaining])
    return result


ALL = ["response.start", "response.body"]
BODY = ["response.body"]
WITH_TRAILERS = ["response.body", "response.trailers"]
TRAILERS = ["response.trailers"]
NOTHING: list[str] = []


@pytest.mark.parametrize(
    ("messages", "remaining"),
    [
        ([start(), END], [BODY, NOTHING]),
        ([start(), body()], [BODY, NOTHING]),
        ([start(), body(more_body=False)], [BODY, NOTHING]),
        ([start(), body(more_body=None)], [BODY, NOTHING]),
        ([start(), MORE, MORE, END], [BODY, BODY, BODY, NOTHING]),
        ([start(trailers=False), END], [BODY, NOTHING]),
        ([start(trailers=True), END, trailers()], [WITH_TRAILERS, TRAILERS, NOTHING]),
        ([start(trailers=True), MORE, END, trailers()], [WITH_TRAILERS, WITH_TRAILERS, TRAILERS, NOTHING]),
        (
            [start(trailers=True), END, trailers(more_trailers=True), trailers(more_trailers=False)],
            [WITH_TRAILERS, TRAILERS, TRAILERS, NOTHING],
        ),
        ([start(trailers=True), trailers(), END], [WITH_TRAILERS, WITH_TRAILERS, TRAILERS]),
        ([start(), trailers(), END], [BODY, BODY, NOTHING]),
        ([start(), pathsend()], [BODY, NOTHING]),
        ([start(trailers=True), pathsend(), trailers()], [WITH_TRAILERS, TRAILERS, NOTHING]),
        ([start(), zerocopysend()], [BODY, NOTHING]),
        ([start(), zerocopysend(more_body=True), MORE, zerocopysend()], [BODY, BODY, BODY, NOTHING]),
        ([start(trailers=True), zerocopysend(), trailers()], [WITH_TRAILERS, TRAILERS, NOTHING]),
        ([start(), END, END], [BODY, NOTHING, NOTHING]),
    ],
)
def test_every_way_an_http_response_ends(messages: list[Words], remaining: list[list[str]]) -> None:
    assert remaining_after(messages, _messages.RESPONSE_REMAINING, after_http) == remaining


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.early_hint", "links": [b"</x.css>; rel=preload"]},
        {"type": "http.response.push", "path": "/x.css", "headers": []},
        {"type": "http.response.debug", "info": {}},
        {"type": "http.response.unknown", "more_body": False},
        {"type": "websocket.close"},
        {"type": None},
    ],
)
@pytest.mark.parametrize("before", [[], [start()], [start(trailers=True)], [start(trailers=True), END]])
def test_what_neither_starts_nor_ends_a_response_changes_nothing(before: list[Words], message: Words) -> None:
    remaining = _messages.RESPONSE_REMAINING
    for earlier in before:
        remaining = after_http(remaining, earlier)
    assert after_http(remaining, message) is remaining


HTTP_TYPES = [f"http.response.{kind}" for kind in ("start", "body", "pathsend", "zerocopysend", "trailers")]
WEBSOCKET_TYPES = [
    f"websocket.{kind}" for kind in ("accept", "send", "close", "http.response.start", "http.response.body")
]


@pytest.mark.parametrize(
    ("said", "in_order"),
    [
        ([], ["start"]),
        ([start()], ["body", "pathsend", "zerocopysend"]),
        ([start(), MORE], ["body", "pathsend", "zerocopysend"]),
        ([start(trailers=True)], ["body", "pathsend", "zerocopysend"]),
        ([start(trailers=True), END], ["trailers"]),
        ([start(), END], []),
    ],
)
def test_which_message_of_an_http_response_is_in_order(said: list[Words], in_order: list[str]) -> None:
    """P5: of one that is not, the server's complaint is the app's to hear, whether the client is there or not."""
    remaining = _messages.RESPONSE_REMAINING
    for message in said:
        remaining = after_http(remaining, message)
    assert [kind for kind in HTTP_TYPES if is_in_order(remaining, kind)] == [
        f"http.response.{kind}" for kind in in_order
    ]


@pytest.mark.parametrize(
    ("said", "in_order"),
    [
        ([], ["accept", "close", "http.response.start"]),
        ([ACCEPT], ["send", "close"]),
        ([ACCEPT, TEXT], ["send", "close"]),
        ([ACCEPT, CLOSE], []),
        ([CLOSE], []),
        ([denial_start()], ["http.response.body"]),
        ([denial_start(), denial_body(more_body=True)], ["http.response.body"]),
        ([denial_start(), denial_body()], []),
    ],
)
def test_which_message_of_a_websocket_is_in_order(said: list[Words], in_order: list[str]) -> None:
    """P5, P7."""
    remaining = _messages.HANDSHAKE_REMAINING
    for message in said:
        remaining = after_websocket(remaining, message)
    assert [kind for kind in WEBSOCKET_TYPES if is_in_order(remaining, kind)] == [
        f"websocket.{kind}" for kind in in_order
    ]


@pytest.mark.parametrize("kind", ["http.response.push", "http.response.early_hint", "unknown", None, 3, ["unhashable"]])
@pytest.mark.parametrize("remaining", [_messages.RESPONSE_REMAINING, _messages.CLOSE_REMAINING, ()])
def test_a_message_of_unknown_type_is_always_in_order(remaining: Remaining, kind: Any) -> None:
    assert is_in_order(remaining, kind)


def test_before_the_start_a_whole_response_is_owed() -> None:
    assert [lacking["type"].split(".", 1)[1] for lacking in _messages.RESPONSE_REMAINING] == ALL


def test_before_the_handshake_a_close_is_owed() -> None:
    assert _messages.HANDSHAKE_REMAINING == ({"type": "websocket.close"},)


@pytest.mark.parametrize(
    ("messages", "remaining"),
    [
        ([ACCEPT, TEXT, CLOSE], [["close"], ["close"], []]),
        ([CLOSE], [[]]),
        ([denial_start(), denial_body(body=b"x")], [["http.response.body"], []]),
        ([denial_start(), denial_body()], [["http.response.body"], []]),
        (
            [denial_start(), denial_body(more_body=True), denial_body(more_body=False)],
            [["http.response.body"], ["http.response.body"], []],
        ),
        ([ACCEPT, {"type": "websocket.ping"}, CLOSE, TEXT], [["close"], ["close"], [], []]),
    ],
)
def test_every_way_a_websocket_ends(messages: list[Words], remaining: list[list[str]]) -> None:
    assert remaining_after(messages, _messages.HANDSHAKE_REMAINING, after_websocket) == remaining


@pytest.mark.parametrize("message", [TEXT, {"type": "websocket.ping"}, {"type": "http.response.body"}, {"type": None}])
@pytest.mark.parametrize("before", [[], [ACCEPT], [denial_start()]])
def test_what_neither_opens_nor_ends_a_websocket_changes_nothing(before: list[Words], message: Words) -> None:
    remaining = _messages.HANDSHAKE_REMAINING
    for earlier in before:
        remaining = after_websocket(remaining, earlier)
    assert after_websocket(remaining, message) is remaining


def test_the_least_response_is_a_499_with_an_empty_body() -> None:
    assert copy_messages(_messages.RESPONSE_REMAINING) == [
        {"type": "http.response.start", "status": 499, "headers": []},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


def test_the_least_trailers_are_empty() -> None:
    remaining = after_http(_messages.RESPONSE_REMAINING, start(trailers=True))
    assert copy_messages(remaining) == [
        {"type": "http.response.body", "body": b"", "more_body": False},
        {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    ]


def test_the_least_denial_is_an_empty_body() -> None:
    assert copy_messages(after_websocket(_messages.HANDSHAKE_REMAINING, denial_start())) == [
        {"type": "websocket.http.response.body", "body": b"", "more_body": False}
    ]


def test_what_others_do_to_a_fresh_message_stays_with_them() -> None:
    """Middleware adds headers in place."""
    for message in copy_messages(_messages.RESPONSE_REMAINING):
        message.get("headers", []).append((b"x-seen", b"yes"))
        message["seen"] = True
    assert copy_messages(_messages.RESPONSE_REMAINING) == [
        {"type": "http.response.start", "status": 499, "headers": []},
        {"type": "http.response.body", "body": b"", "more_body": False},
    ]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "websocket.disconnect"}, 1005),
        ({"type": "websocket.disconnect", "code": None}, 1005),
        ({"type": "websocket.disconnect", "code": 1001, "reason": "bye"}, 1001),
        ({"type": "websocket.disconnect", "code": 0}, 0),
    ],
)
def test_a_disconnect_without_a_code_has_the_code_of_the_specification(message: dict[str, Any], code: int) -> None:
    """P7: the default of ASGI's websocket.disconnect is 1005. The server's own dict stays as it was."""
    before = dict(message)
    assert (with_code(message), message) == ({**before, "code": code}, before)


def test_a_disconnect_with_a_code_is_the_servers_own_message() -> None:
    message = {"type": "websocket.disconnect", "code": 1001}
    assert with_code(message) is message


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ({"type": "x"}, "x"),
        (MappingProxyType({"type": "x"}), "x"),
        ({}, None),
        (None, None),
        ("type", None),
        (["type"], None),
        (dict, None),
    ],
)
def test_a_field_of_what_is_no_mapping_is_none(message: Any, value: Any) -> None:
    assert field(message, "type") == value


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ([(b"Content-Length", b"5"), (b"x-status", b"ready")], [(b"x-status", b"ready")]),
        ([[b"content-length", b"5"]], []),
        ([(b"content-length", b"0")], [(b"content-length", b"0")]),  # which is kept
        ([], []),
        ([()], [()]),  # none of their kind: the server's to judge
        (7, 7),
        ([("content-length", "5")], [("content-length", "5")]),
    ],
)
def test_a_start_whose_body_stays_away_announces_no_length(headers: Any, left: Any) -> None:
    assert without_length(start(status=201, headers=headers)) == start(status=201, headers=left)
    assert without_length({"type": "http.response.start", "status": 204}) == {
        "type": "http.response.start",
        "status": 204,
    }


CONTENT_LENGTH, NO_CONTENT, CHUNKED = (
    (b"Content-Length", b"7"),
    (b"content-length", b" 0"),
    (b"Transfer-Encoding", b"chunked"),
)


@pytest.mark.parametrize(
    ("method", "version", "headers", "announces"),
    [
        ("GET", "1.1", [], False),
        ("POST", "1.1", [(b"accept", b"*/*")], False),
        ("POST", "1.1", [CONTENT_LENGTH], True),
        ("POST", "1.1", [NO_CONTENT], False),
        ("GET", "1.1", [CHUNKED], True),
        ("POST", "1.0", [], False),
        ("GET", "2", [], False),
        ("HEAD", "2", [], False),
        ("OPTIONS", "2", [], False),
        ("POST", "2", [], True),
        ("POST", "2", [NO_CONTENT], False),
        ("GET", "2", [CONTENT_LENGTH], True),
    ],
)
def test_a_body_is_announced_or_may_come_unannounced(method: str, version: str, headers: Any, announces: bool) -> None:
    assert announces_body({"method": method, "http_version": version, "headers": headers}) is announces
