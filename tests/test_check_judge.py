"""What `disconnect-mw check` finds in the evidence, and what it says about that."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from disconnect_mw._check._evidence import Departure, Logged, Memory, OnServer, Report, Result, Side, Stay
from disconnect_mw._check._judge import compare, find, judge
from disconnect_mw._check._routes import Route

ROUTE = Route("http", "GET", "/a/1", "/a/{id}")
STREAM = Stay(200, body=b"tick", seconds=1.0)
WHOLE = Stay(200, body=b"whole", is_whole=True)

LEFT = Departure("mid-stream", "FIN", seconds=0.01, how="returned")


def left(**fields: Any) -> Departure:
    return dataclasses.replace(LEFT, **fields)


def logged(**fields: Any) -> Logged:
    return dataclasses.replace(Logged("ERROR", "uvicorn.error", "Exception", None, None, None, []), **fields)


def codes(departure: Departure, stay: Stay = STREAM) -> list[str]:
    return [finding.code for finding in find(ROUTE, Side([stay], [departure]))]


DEPARTED = logged(exception="starlette.requests.ClientDisconnect", is_of_departure=True)
BUG = logged(exception="KeyError: 'a'", is_of_departure=False, place="shop.py:3, in report")


@pytest.mark.parametrize(
    ("departure", "expected"),
    [
        (left(), []),
        (left(lost="blocked"), ["blocked"]),
        (left(lost="ended", not_played="it was over"), ["ended"]),
        (left(not_played="it was over", log=[BUG]), []),
        (left(seconds=None, how=None, is_stubborn=False), ["endless"]),
        (left(seconds=None, how=None, is_stubborn=True, place="shop.py:1, in a"), ["stubborn"]),
        (left(seconds=None, how=None, in_thread=True), []),
        (left(tasks=["beat"]), ["tasks"]),
        (left(connections=1), ["pool"]),
        (left(log=[DEPARTED]), ["traceback"]),
        (left(log=[dataclasses.replace(DEPARTED, logger="shop", place="shop.py:3, in a")]), ["noise"]),
        (left(log=[dataclasses.replace(DEPARTED, logger="shop")]), ["noise"]),
        (left(log=[BUG]), ["bug"]),
        (left(log=[BUG, DEPARTED]), ["bug", "traceback"]),
        (left(log=[dataclasses.replace(BUG, place=None)]), ["bug"]),
        (left(log=6 * [logged(text="socket.send() raised exception.", level="WARNING")]), ["flood"]),
        (left(log=2 * [logged(level="WARNING", logger="asyncio")]), ["line"]),
        (left(log=[logged(level="WARNING", logger="shop")]), []),  # of the app's own, as it wants it
        (left(phase="upload", is_half_taken=True, status=200), ["half"]),
        (left(phase="upload", files=[("/up/1.bin", 5)]), ["half"]),
        (left(phase="mid-stream", files=[("/up/1.bin", 5)]), []),
    ],
)
def test_what_misbehaves(departure: Departure, expected: list[str]) -> None:
    assert codes(departure) == expected


def test_what_a_client_that_stays_sees_too_is_no_fault_of_a_departure() -> None:
    assert codes(left(tasks=["beat"], connections=1), Stay(200, tasks=1, connections=1)) == []
    assert codes(left(log=[BUG]), Stay(200, log=[BUG])) == []
    # No answer within the time: whether it would have ended cannot be told.
    assert codes(left(seconds=None, how=None, is_stubborn=False), Stay(problem="it does not answer within 8 s")) == []


def test_half_an_upload_is_told_from_a_whole_one_by_files_of_its_kind() -> None:
    stay = Stay(200, files=[("/up/1.bin", 10), ("/up/1.log", 3)])
    for files, expected in (
        ([("/up/2.bin", 5)], "5 of 10 bytes stay in a file such as 2.bin"),
        ([("/up/2.bin", 10)], ""),
        ([("/up/2.log", 3)], ""),
        ([("/up/2.part", 5)], "a file such as 2.part is left behind"),
    ):
        found = find(ROUTE, Side([stay], [left(phase="upload", files=files)]))
        assert [expected in finding.sentence for finding in found] == [True] * bool(expected)


def test_each_fault_is_told_once_with_all_that_show_it() -> None:
    departures = [left(log=[DEPARTED]), left(log=[DEPARTED], way="RST"), left(log=[DEPARTED], phase="first bytes")]
    (finding,) = find(ROUTE, Side([STREAM], departures))
    assert (finding.phases, finding.ways) == (["mid-stream", "first bytes"], ["FIN", "RST"])


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (Memory("mid-stream", 100, 5_000.0, "shop.py:3"), ["memory"]),
        (Memory("mid-stream", 100, 5_000.0, None), ["memory"]),
        (Memory("mid-stream", 100, 5_000.0, None, grows_anyway=True), []),
        (Memory("mid-stream", 100, 100.0, None), []),
    ],
)
def test_memory_that_grows(memory: Memory, expected: list[str]) -> None:
    assert [finding.code for finding in find(ROUTE, Side(memory=memory))] == expected


# A client that stays


@pytest.mark.parametrize(
    ("bare", "wrapped", "expected"),
    [
        ([], [], None),
        ([Stay(problem="it closed")], [Stay(problem="it closed")], None),
        ([WHOLE], [Stay(problem="it closed")], False),
        ([Stay(problem="it closed")], [WHOLE], False),
        ([WHOLE], [WHOLE], True),
        ([WHOLE], [dataclasses.replace(WHOLE, status=500)], False),
        ([WHOLE], [dataclasses.replace(WHOLE, body=b"other")], False),
        ([WHOLE], [dataclasses.replace(WHOLE, headers=[("x", "1")])], False),
        ([WHOLE], [dataclasses.replace(WHOLE, headers=[("date", "now")])], True),
        ([WHOLE, dataclasses.replace(WHOLE, body=b"other")], [WHOLE], None),
        (
            [dataclasses.replace(WHOLE, headers=[("id", "1")]), dataclasses.replace(WHOLE, headers=[("id", "2")])],
            [dataclasses.replace(WHOLE, headers=[("id", "3")])],
            True,
        ),
        ([STREAM], [dataclasses.replace(STREAM, body=b"ticktick")], True),
        ([STREAM], [dataclasses.replace(STREAM, body=b"tock")], False),
        ([Stay(101, messages=[b"a", b"b"])], [Stay(101, messages=[b"a"])], True),
        ([Stay(101, messages=[b"a"])], [Stay(101, messages=[b"b"])], False),
    ],
)
def test_whether_the_answer_is_the_same(bare: list[Stay], wrapped: list[Stay], expected: bool | None) -> None:
    assert compare(bare, wrapped)[0] is expected


# Advice


def judged(bare: Departure, wrapped: Departure, server: OnServer | None = None, route: Route = ROUTE) -> Result:
    result = Result(route, Side([STREAM], [bare]), Side([STREAM], [wrapped]))
    judge(result, OnServer("uvicorn", "0.54.0") if server is None else server)
    return result


@pytest.mark.parametrize(
    ("framework", "line"),
    [
        (None, 'app = DisconnectMiddleware(app, policy_for={"/a/*": "cancel"})'),
        ("fastapi", 'app.add_middleware(DisconnectMiddleware, policy_for={"/a/*": "cancel"})'),
        ("litestar", 'Litestar(…, middleware=[DefineMiddleware(DisconnectMiddleware, policy_for={"/a/*": "cancel"})])'),
        ("quart", 'app.asgi_app = DisconnectMiddleware(app.asgi_app, policy_for={"/a/*": "cancel"})'),
        ("django", 'application = DisconnectMiddleware(get_asgi_application(), policy_for={"/a/*": "cancel"})'),
    ],
)
def test_the_line_to_write_is_in_the_framework_s_words(framework: str | None, line: str) -> None:
    endless = left(seconds=None, how=None, is_stubborn=False, place="shop.py:7, in gen")
    result = judged(endless, endless, OnServer("uvicorn", "", {"framework": framework}))
    (advice,) = result.advice
    assert advice.happens == "The handler does not end when its client leaves (shop.py:7, in gen)."
    assert (advice.line, advice.place) == (line, "shop.py:7, in gen")


def test_what_the_middleware_mends_is_one_install() -> None:
    (advice,) = judged(left(log=[DEPARTED]), left()).advice
    assert advice.happens.startswith("Without the middleware: a traceback in the log that only says")
    assert advice.line == "app = DisconnectMiddleware(app)"
    # One that is there already is not advised.
    assert judged(left(log=[DEPARTED]), left(), OnServer("uvicorn", "", has_own=True)).advice == []


def test_the_install_of_the_app_is_named() -> None:
    endless = left(seconds=None, how=None)
    (advice,) = judged(endless, endless, OnServer("uvicorn", "", has_own=True)).advice
    assert advice.line == 'DisconnectMiddleware(…, policy_for={"/a/*": "cancel"})  # the install that the app has'


def test_a_websocket_has_a_policy_of_its_own() -> None:
    endless = left(phase="open", seconds=None, how=None)
    (advice,) = judged(endless, endless, route=Route("websocket", "GET", "/ws", "/ws")).advice
    assert advice.line == 'app = DisconnectMiddleware(app, websocket_policy="cancel")'


def test_work_that_goes_on_is_worth_a_word_and_no_fault() -> None:
    result = judged(left(seconds=2.0), left(seconds=2.0))
    assert result.findings == []
    (advice,) = result.advice
    assert advice.happens == "The handler works on for 2.0 s for a client that has left."
    assert "finish" in advice.why and "cancel" in advice.why


def test_a_handler_that_goes_on_for_longer_than_anyone_waits_is_worth_one_too() -> None:
    still = left(seconds=None, how=None, in_thread=True)
    (advice,) = judged(still, still).advice
    assert advice.happens == "The handler works on for long for a client that has left."


def test_a_policy_that_is_in_force_is_not_advised() -> None:
    result = Result(ROUTE, Side([STREAM], [left(seconds=2.0)]), Side([STREAM], [left(seconds=2.0)]))
    judge(result, OnServer("uvicorn", ""), "cancel")
    (advice,) = result.advice
    assert (
        advice.happens == "The handler works on for 2.0 s for a client that has left, although it is to be cancelled."
    )
    assert advice.line is not None and "on_disconnect" in advice.line and '"cancel"' not in advice.line


def test_an_app_that_needs_the_middleware_is_not_compared() -> None:
    result = Result(ROUTE, Side([Stay(500)]), Side([STREAM], [left()]), needs_middleware=True)
    judge(result, OnServer("uvicorn", ""))
    assert result.is_same is None and result.same.startswith("without the middleware it cannot answer")


def test_what_is_skipped_does_not_misbehave() -> None:
    server = OnServer("uvicorn", "", results=[Result(ROUTE, is_skipped="it redirects", is_same=False)])
    assert not Report("0.1.0", "shop:app", {}, [server]).misbehaves


def test_long_words_are_cut() -> None:
    words = 200 * "x"
    (finding,) = find(ROUTE, Side([STREAM], [left(log=[logged(exception=words, is_of_departure=True)])]))
    assert len(finding.sentence) < 160 and finding.sentence.endswith('…"')


def test_what_no_policy_mends_has_a_line_of_its_own() -> None:
    (advice,) = judged(left(tasks=["beat, shop.py:9, in beat"]), left(tasks=["beat, shop.py:9, in beat"])).advice
    assert advice.place == "shop.py:9, in beat"
    assert (advice.line or "").startswith("async with asyncio.TaskGroup()")
