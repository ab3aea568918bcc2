"""The reports of `disconnect-mw check` on the terminal, as a page and as JSON, made of evidence by hand."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

import disconnect_mw
from disconnect_mw._check._evidence import Departure, Logged, Mark, Memory, OnServer, Report, Result, Side, Stay
from disconnect_mw._check._html import summary, timeline, to_html
from disconnect_mw._check._json import to_json
from disconnect_mw._check._judge import judge
from disconnect_mw._check._routes import Route
from disconnect_mw._check._terminal import Terminal, TerminalDisplay, display

SCHEMA = json.loads((Path(disconnect_mw.__file__).parent / "_check" / "report.schema.json").read_text())

TIMELINE = [
    Mark(0.0, "client", "asks"),
    Mark(0.01, "app", "begins"),
    Mark(0.02, "app", "http.response.body", 4),
    Mark(0.1, "client", "leaves (FIN)"),
    Mark(0.11, "server", "http.disconnect"),
    Mark(0.2, "app", "send"),
    Mark(0.3, "app", "returned"),
]
BUG = Logged("ERROR", "shop", "failed", "KeyError: '<b>'", False, "shop.py:3, in a", ["Traceback", "KeyError: '<b>'"])
STAY = Stay(200, [("content-type", "text/html; charset=utf-8")], b"hello", is_whole=True)


def departure(**fields: Any) -> Departure:
    usual = {"phase": "mid-stream", "way": "FIN", "seconds": 0.2, "how": "returned", "timeline": TIMELINE}
    return Departure(**{**usual, **fields})


def make_report() -> Report:
    server = OnServer("uvicorn", "0.54.0", {"python": "3.11.7", "framework": "fastapi"}, notes=["2 routes left out"])
    usual = {"sends": 3, "told_after": 0.01}
    good = Result(
        Route("http", "GET", "/good", "/good"),
        Side([STAY], [departure(**usual)], Memory("mid-stream", 100, 10.0, None)),
        Side([STAY], [departure(**usual), departure(phase="first bytes", not_played="it was over")], no_memory="lost"),
    )
    bad = Result(
        Route("http", "GET", "/bad", "/bad"),
        Side([STAY], [departure(log=6 * [BUG])], Memory("mid-stream", 100, 9000.0, "shop.py:1")),
        Side(
            [dataclasses.replace(STAY, body=b"other")],
            [
                departure(log=[BUG]),
                departure(seconds=None, how=None, in_thread=True, way="RST"),
                departure(phase="first bytes", seconds=None, how=None, timeline=TIMELINE[:-1]),
                departure(phase="before response", lost="blocked", timeline=[]),
            ],
            Memory("mid-stream", 100, 9000.0, "shop.py:1", grows_anyway=True),
        ),
    )
    slow = Result(
        Route("http", "GET", "/slow", "/slow"),
        Side([Stay(problem="no answer")], [departure(seconds=3.0)]),
        Side(
            [Stay(problem="no answer")],
            [departure(seconds=None, how=None), departure(seconds=3.0, phase="first bytes")],
        ),
    )
    skipped = Result(Route("websocket", "GET", "/ws", "/ws"), Side([STAY]), is_skipped="the handshake is refused")
    server.results = [good, bad, slow, skipped]
    server.log = [Logged("ERROR", "asyncio", "Task was destroyed but it is pending!", None, None, None, [])]
    own = OnServer("hypercorn", "0.18.0", has_own=True)
    for number in range(5):
        route = Route("http", "GET", f"/{number}", f"/{number}")
        bare, wrapped = (Side([STAY], [departure(seconds=3.0)]) for _ in range(2))
        own.results.append(Result(route, bare, wrapped))
    broken = OnServer("daphne", "", problem="daphne ended with status 1", lines=["ImportError"])
    for one in (server, own):
        for result in one.results:
            judge(result, one)
    return Report("0.1.0", "shop:app", {"policy": "mute"}, [server, own, broken], 12.3)


class TerminalOutput(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def printed(report: Report, output: io.StringIO | None = None, *, is_quiet: bool = False) -> str:
    output = io.StringIO() if output is None else output
    Terminal(output, is_quiet=is_quiet).print(report)
    return output.getvalue()


def test_the_terminal_has_one_table_for_each_server_and_says_what_to_do() -> None:
    text = printed(make_report())
    assert max(map(len, text.splitlines())) <= 80
    assert "\033" not in text
    words = " ".join(text.replace("│", " ").split())
    for part in (
        "shop:app on uvicorn 0.54.0, Python 3.11.7",
        "GET /good",
        "ends after 0.2 s",
        "no memory kept",
        "not measured: lost",
        "8.8 KiB kept for each",
        "goes on for long",
        "WS /ws is not tried: the handshake is refused",
        "2 routes left out",
        "logged for no client that is known: ERROR Task was destroyed",
        "The app has the middleware already",
        "not tried: daphne ended with status 1",
        "ImportError",
        "and 3 more: The handler works on for long",
        "at shop.py:3, in a",
        "With the middleware something misbehaves",
    ):
        assert part in words, text


@pytest.mark.parametrize("columns", [30, 50, 60, 100])
def test_narrow_and_wide_terminals(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(make_report())
    assert max(map(len, text.splitlines())) <= columns
    assert ("without: " in text) is (columns < 60)


@pytest.mark.parametrize(
    ("is_terminal", "variables", "is_coloured"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_colours_are_for_terminals(
    is_terminal: bool, variables: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    text = printed(make_report(), TerminalOutput() if is_terminal else io.StringIO())
    assert ("\033[31m" in text or "\033[32m" in text) is is_coloured


def test_quiet_is_what_misbehaves_alone() -> None:
    text = " ".join(printed(make_report(), is_quiet=True).split())
    assert "uvicorn 0.54.0, GET /bad: a bug that shows when a client leaves" in text
    assert "uvicorn 0.54.0, GET /bad: the body is not the same" in text
    assert "daphne: daphne ended with status 1" in text
    assert "/good" not in text and "What to do" not in text
    assert printed(Report("0.1.0", "shop:app", {}), is_quiet=True) == ""


def test_an_interrupted_report_says_so_and_a_good_one_too() -> None:
    report = make_report()
    report.servers = [report.servers[1]]
    assert "With the middleware nothing misbehaves (5 routes in 12 s)." in printed(report)
    report.servers[0].results = report.servers[0].results[:1]
    report.is_interrupted = True
    assert "Interrupted: this is what was found so far (1 route in 12 s)." in printed(report)
    assert "Interrupted" in to_html(report)


def test_the_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = TerminalOutput()
    with display(errors, is_quiet=False) as shown:
        shown.say("GET /a: FIN in mid-stream")
        shown.expect(2)
        shown.expect(2)
        shown.step()
    assert "GET /a: FIN in mid-stream" in errors.getvalue()
    for output, is_quiet in ((io.StringIO(), False), (TerminalOutput(), True)):
        with display(output, is_quiet=is_quiet) as shown:
            shown.say("x")
            shown.expect(1)
            shown.step()
        assert output.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    with display(TerminalOutput(), is_quiet=False) as shown:
        assert isinstance(shown, TerminalDisplay) and shown._progress is None


def test_the_page_is_self_contained_and_escapes() -> None:
    page = to_html(make_report())
    assert "http://" not in page and "https://" not in page and "<link" not in page
    assert "KeyError: &#39;&lt;b&gt;&#39;" in page and "KeyError: '<b>'" not in page
    assert page.count("<svg") == page.count('role="img"') == 20
    assert "prefers-color-scheme: dark" in page
    assert "and 1 more lines" in page
    assert "Not played on this side." in page and "The server was lost." in page


def test_a_timeline_is_drawn_to_scale() -> None:
    drawn = timeline(departure(), seconds=0.4)
    width = 460.0 - 62.0 - 12.0
    assert (drawn.begins, drawn.ends) == (round(62 + width * 0.01 / 0.4, 1), round(62 + width * 0.3 / 0.4, 1))
    assert drawn.leaves == round(62 + width / 4, 1)
    kinds = [mark.kind for mark in drawn.marks]
    assert kinds == ["plain", "plain", "send", "plain", "told", "late", "plain"]
    assert drawn.marks[2].text == "0.020 s: app http.response.body, 4 bytes"
    assert drawn.is_open is False
    assert timeline(departure(how=None, seconds=None), 0.4).is_open is True
    assert timeline(departure(timeline=[]), 0.4).begins is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lost": "ended"}, "The server was lost."),
        ({"not_played": "it was over"}, "Not played: it was over."),
        (
            {"seconds": None, "sends": 5},
            "The client leaves; the app is never told, sends 5 more; the handler still runs.",
        ),
        (
            {"told_after": 0.1},
            "The client leaves; the app is told after 0.10 s, sends nothing more; the handler returned 0.20 s later.",
        ),
    ],
)
def test_a_departure_in_one_sentence(fields: Any, sentence: str) -> None:
    assert summary(departure(**fields)) == sentence


def test_the_json_keeps_to_its_schema() -> None:
    report = make_report()
    document = json.loads(to_json(report, 1))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    stay = document["servers"][0]["routes"][0]["bare"]["stays"][0]
    assert (stay["content_type"], stay["bytes"]) == ("text/html", 5)
    document["servers"][0]["routes"][0]["bare"]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        jsonschema.Draft202012Validator(SCHEMA).validate(document)
