"""The arguments of `disconnect-mw check`, and the sentence that each bad one gets."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from disconnect_mw.__main__ import _make_parser, main
from disconnect_mw._check import _command, _options
from disconnect_mw._check._evidence import Report
from disconnect_mw._check._options import CheckError, Options
from disconnect_mw._check._routes import Route


def read(*arguments: str) -> Options:
    return _options.read(_make_parser().parse_args(["check", *arguments]))


def test_what_is_not_given_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("shop:app") == Options("shop:app", str(tmp_path))
    assert (read("shop:app").seconds_to_end, read("shop:app").seconds_to_stay) == (4.0, 8.0)
    quick = read("shop:app", "--quick")
    assert (quick.seconds_to_end, quick.seconds_to_stay) == (1.2, 2.0)
    assert read("shop:app", "--quick", "--patience", "7").seconds_to_end == 7.0


def test_options_are_for_the_path_before_them(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"a": 1}')
    found = read(
        *("shop:app", "--header", "X-All: 1"),
        *("--path", "/a?b=c"),
        *("--path", "/save", "--data", f"@{body}", "--method", "put", "--header", "X-One: 2"),
        *("--path", "/raw", "--data", "text", "--header", "Content-Type: text/plain", "--data", "other"),
        *("--websocket", "/ws", "--say", "hi", "--say", "ho"),
    )
    every = ("X-All", "1")
    assert found.headers == (every,)
    assert found.routes == (
        Route("http", "GET", "/a?b=c", "/a", (every,)),
        Route(
            "http", "PUT", "/save", "/save", (every, ("content-type", "application/json"), ("X-One", "2")), b'{"a": 1}'
        ),
        Route(
            *("http", "POST", "/raw", "/raw"),
            (every, ("content-type", "application/octet-stream"), ("Content-Type", "text/plain")),
            b"other",
        ),
        Route("websocket", "GET", "/ws", "/ws", (every,), None, ("hi", "ho")),
    )
    assert [route.title for route in found.routes] == ["GET /a", "PUT /save", "POST /raw", "WS /ws"]


def test_options_of_the_middleware_are_checked_by_its_own_rules() -> None:
    found = read(
        *("shop:app", "--policy", "cancel", "--websocket-policy", "mute", "--grace", "5", "--send-timeout", "2"),
        *("--max-orphans", "3", "--policy-for", "/v1/*=finish", "--policy-for", "/a=b=mute"),
    )
    assert found.middleware == {
        "policy": "cancel",
        "websocket_policy": "mute",
        "grace": 5.0,
        "send_timeout": 2.0,
        "max_orphans": 3,
        "policy_for": {"/v1/*": "finish", "/a=b": "mute"},
    }


def test_servers_files_and_the_rest(tmp_path: Path) -> None:
    listed = tmp_path / "requirements.txt"
    listed.touch()
    found = read(
        *("shop.web:make_app", "--factory", "--app-dir", str(tmp_path), "--server", "uvicorn==0.28.0"),
        *("--server", "hypercorn", "--with-requirements", str(listed), "--openapi", "/o.json", "--unsafe"),
        *("--routes", "3", "--html", str(tmp_path / "report.html"), "--json", "-", "--quiet"),
    )
    assert found == Options(
        "shop.web:make_app",
        str(tmp_path),
        True,
        (("uvicorn", "0.28.0"), ("hypercorn", None)),
        listed,
        openapi="/o.json",
        is_unsafe=True,
        most_routes=3,
        is_quiet=True,
        html=tmp_path / "report.html",
        json="-",
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shop.py"], ""),
        (["shop/web"], "must be an import path such as module:app, not 'shop/web'"),
        (["shop:app", "--app-dir", "nowhere"], "--app-dir must be a directory, and there is none at 'nowhere'"),
        (["shop:app", "--server", "apache"], "--server must be one of uvicorn, hypercorn,"),
        (["shop:app", "--server", "uvicorn==latest"], "or such as uvicorn==0.28.0, not 'uvicorn==latest'"),
        (["shop:app", "--with-requirements", "none.txt"], "--with-requirements must be a file"),
        (["shop:app", "--path", "stream"], "--path must begin with a slash, not 'stream'"),
        (["shop:app", "--websocket", "ws"], "--websocket must begin with a slash, not 'ws'"),
        (["shop:app", "--data", "x"], "--data is for the path before it: pass --path or --websocket first"),
        (["shop:app", "--path", "/a", "--say", "x"], "--say is for --websocket, and stands behind /a"),
        (["shop:app", "--websocket", "/a", "--data", "x"], "--data is for --path, and stands behind /a"),
        (["shop:app", "--path", "/a", "--method", "FETCH"], "--method must be one of GET,"),
        (["shop:app", "--path", "/a", "--data", "@none.json"], "--data @none.json cannot be read: No such file"),
        (["shop:app", "--header", "nothing"], "--header must be such as 'Authorization: Bearer …', not 'nothing'"),
        (["shop:app", "--header", "a: b\r\nc: d"], "--header must be such as"),
        (["shop:app", "--routes", "0"], "--routes must be 1 or more, not 0"),
        (["shop:app", "--patience", "0"], "--patience must be more than 0 and at most 600 seconds, not 0"),
        (["shop:app", "--html", "nowhere/report.html"], "--html must be a file in a directory that there is"),
        (["shop:app", "--json", "."], "--json must be a file in a directory that there is, not '.'"),
        (["shop:app", "--policy", "ignore"], "--policy must be 'mute', 'finish', 'cancel' or 'raise', not 'ignore'"),
        (["shop:app", "--websocket-policy", "x"], "--websocket-policy must be 'mute'"),
        (["shop:app", "--grace", "-1"], "grace must be zero or more seconds"),
        (["shop:app", "--policy-for", "/a"], "--policy-for must be such as '/v1/*=cancel', not '/a'"),
        (["shop:app", "--policy-for", "/a=stop"], "--policy-for must be such as '/v1/*=cancel', not '/a=stop'"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if not told:  # as much as an import path: whether there is such a module is seen when it is imported
        assert read(*arguments).app == "shop.py"
        return
    with pytest.raises(CheckError) as raised:
        read(*arguments)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_command_says_what_is_wrong_and_answers_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "shop/web"]) == 2
    assert capsys.readouterr().err.startswith("disconnect-mw: the app must be an import path")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("h2", "rich") else name)
    assert main(["check", "shop:app"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told == 'disconnect-mw: the check needs h2, rich: pip install "disconnect-mw[check]"'


def test_the_json_on_the_standard_output_stands_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_command, "_play", lambda options, report, errors: None)
    assert main(["check", "shop:app", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["app"] == "shop:app"


def test_an_interrupted_check_prints_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: Options, report: Report, errors: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_command, "_play", interrupt)
    assert main(["check", "shop:app"]) == 130
    assert "Interrupted: this is what was found so far" in capsys.readouterr().out


def test_the_lines_of_a_failure_follow_its_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: Options, report: Report, errors: object) -> None:
        raise CheckError("it does not start", ["KeyError: 'url'"])

    monkeypatch.setattr(_command, "_play", fail)
    assert main(["check", "shop:app"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "disconnect-mw: it does not start\n  KeyError: 'url'\n")
