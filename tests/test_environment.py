"""The options from the environment, for installs without code."""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from disconnect_mw import CancelOnDisconnect, DisconnectMiddleware, _environment, _options
from disconnect_mw._http import HTTPConnection
from disconnect_mw._telling import LOGGER, OBSERVERS
from disconnect_mw.observe.logging import Handler, configure

ALL = {
    "DISCONNECT_MW_POLICY": "cancel",
    "DISCONNECT_MW_WEBSOCKET_POLICY": "mute",
    "DISCONNECT_MW_GRACE": "2.5",
    "DISCONNECT_MW_SEND_TIMEOUT": "30",
    "DISCONNECT_MW_MAX_ORPHANS": "7",
}


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    """An app that is never called here."""


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith("DISCONNECT_MW_"):
            monkeypatch.delenv(name)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def options_of(middleware: DisconnectMiddleware) -> list[Any]:
    options = middleware._options
    limit = None if options.orphans is None else options.orphans._limit
    return [options.policy, middleware._websocket_options.policy, options.grace, options.send_timeout, limit]


def test_an_install_without_arguments_takes_every_option_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, ALL)
    assert options_of(DisconnectMiddleware(endpoint)) == ["cancel", "mute", 2.5, 30, 7]


def test_no_variable_and_an_empty_one_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_of(DisconnectMiddleware(endpoint)) == ["mute", "raise", None, None, None]
    put(monkeypatch, dict.fromkeys([*ALL, "DISCONNECT_MW_LOG"], ""))
    assert options_of(DisconnectMiddleware(endpoint)) == ["mute", "raise", None, None, None]
    assert DisconnectMiddleware(endpoint)._usual is HTTPConnection


def test_an_argument_wins_and_none_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, ALL)
    given = DisconnectMiddleware(endpoint, policy="finish", websocket_policy="raise", grace=None, max_orphans=1)
    assert options_of(given) == ["finish", "raise", None, 30, 1]
    assert options_of(CancelOnDisconnect(endpoint)) == ["cancel", "mute", 2.5, 30, 7]


def test_blanks_around_a_value_and_its_case_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"DISCONNECT_MW_POLICY": " Cancel\n", "DISCONNECT_MW_GRACE": " 2.5 ", "DISCONNECT_MW_LOG": " "})
    assert options_of(DisconnectMiddleware(endpoint)) == ["cancel", "raise", 2.5, None, None]


def test_a_grace_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"DISCONNECT_MW_GRACE": "inf"})
    assert options_of(DisconnectMiddleware(endpoint))[2] == math.inf


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("POLICY", "cancle", "must be 'mute', 'finish', 'cancel' or 'raise', not 'cancle'"),
        ("WEBSOCKET_POLICY", "ignore", "must be 'mute', 'finish', 'cancel' or 'raise', not 'ignore'"),
        ("GRACE", "5 s", "must be zero or more seconds, or 'inf' for no limit at all, not '5 s'"),
        ("GRACE", "-1", "must be zero or more seconds, or 'inf' for no limit at all, not '-1'"),
        ("GRACE", "nan", "must be zero or more seconds, or 'inf' for no limit at all, not 'nan'"),
        ("SEND_TIMEOUT", "0", "must be more than zero seconds; unset it for no limit, not '0'"),
        ("SEND_TIMEOUT", "inf", "must be more than zero seconds; unset it for no limit, not 'inf'"),
        ("MAX_ORPHANS", "0", "must be a whole number of apps, 1 or more; unset it for no limit, not '0'"),
        ("MAX_ORPHANS", "2.5", "must be a whole number of apps, 1 or more; unset it for no limit, not '2.5'"),
        (
            "MAX_ORPHANS",
            "9" * 5000,  # more digits than Python makes a number of
            f"must be a whole number of apps, 1 or more; unset it for no limit, not '{'9' * 100}…'",
        ),
        ("LOG", "notset", "must be a level, 'info', or a level and a format, 'info,json', not 'notset'"),
        ("LOG", "10", "must be a level, 'info', or a level and a format, 'info,json', not '10'"),
        ("LOG", ",json", "must be a level, 'info', or a level and a format, 'info,json', not ',json'"),
        ("LOG", "loud", "must be a level, 'info', or a level and a format, 'info,json', not 'loud'"),
        ("LOG", "info,yaml", "must be a level, 'info', or a level and a format, 'info,json', not 'info,yaml'"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str, message: str
) -> None:
    """Raised and logged: uvicorn takes what is raised in the lifespan for "not supported"."""
    put(monkeypatch, {f"DISCONNECT_MW_{variable}": value})
    with pytest.raises(ValueError) as caught:
        DisconnectMiddleware(endpoint)
    assert str(caught.value) == f"DISCONNECT_MW_{variable} {message}"
    assert caplog.messages == [str(caught.value)]


def test_orphans_need_apps_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an argument says that none do, the variable is not meant for this install."""
    put(monkeypatch, {"DISCONNECT_MW_MAX_ORPHANS": "7"})
    assert options_of(DisconnectMiddleware(endpoint, policy="raise"))[4] is None
    put(monkeypatch, {"DISCONNECT_MW_POLICY": "raise"})
    with pytest.raises(ValueError, match="DISCONNECT_MW_MAX_ORPHANS needs apps that can go on without a client"):
        DisconnectMiddleware(endpoint)


def test_a_misspelt_variable_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_environment, "_complained", set())
    put(monkeypatch, {"DISCONNECT_MW_POLICE": "cancel"})
    for _ in range(2):
        DisconnectMiddleware(endpoint)
    assert caplog.messages == ["DISCONNECT_MW_POLICE is no variable of disconnect_mw: look for a misspelling"]


@pytest.mark.parametrize(
    ("value", "level", "formatter"),
    [
        ("info", logging.INFO, "TextFormatter"),
        ("Debug, json", logging.DEBUG, "JSONFormatter"),
        (" INFO,JSON ", logging.INFO, "JSONFormatter"),
    ],
)
def test_the_log_is_configured_without_code(
    monkeypatch: pytest.MonkeyPatch, value: str, level: int, formatter: str
) -> None:
    put(monkeypatch, {"DISCONNECT_MW_LOG": value})
    before, handlers = LOGGER.level, LOGGER.handlers[:]
    try:
        DisconnectMiddleware(endpoint)
        assert LOGGER.level == level
        assert [type(one.formatter).__name__ for one in LOGGER.handlers if isinstance(one, Handler)] == [formatter]
    finally:
        LOGGER.handlers[:] = handlers
        LOGGER.setLevel(before)
        OBSERVERS.clear()


# disconnect_mw.app

MODULE = """
import types

async def app(scope, receive, send):
    pass

def create():
    return app

class OfASGI2:
    def __init__(self, scope):
        pass

class Callable:
    async def __call__(self, scope, receive, send):
        pass

def variadic(*arguments):
    return app(*arguments)

inside = types.SimpleNamespace(app=app)
nothing = types.SimpleNamespace()
made = Callable()
builtin = dict
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("served", "broken", "disconnect_mw.app"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def load(monkeypatch: pytest.MonkeyPatch, path: str) -> Any:
    put(monkeypatch, {"DISCONNECT_MW_APP": path})
    monkeypatch.delitem(sys.modules, "disconnect_mw.app", raising=False)
    return importlib.import_module("disconnect_mw.app").app


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("served:app", "app"),
        ("served:inside.app", "app"),
        ("served:create()", "app"),
        ("served:create", "app"),
        (" served : app\n", "app"),
        ("served:made", "made"),
        ("served:variadic", "variadic"),
    ],
)
def test_the_app_that_the_variable_names_is_served(monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    put(monkeypatch, ALL)
    app = load(monkeypatch, path)
    assert isinstance(app, DisconnectMiddleware)
    assert app._app is getattr(sys.modules["served"], name)
    assert options_of(app)[0] == "cancel"


@pytest.mark.usefixtures("package")
def test_an_app_of_the_double_callable_is_no_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, "served:OfASGI2")._app is not None
    assert not _environment.takes_nothing(sys.modules["served"].OfASGI2)
    assert not _environment.takes_nothing(type)  # which has no signature


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must be the import path of an app, as 'package.module:app', not ''"),
        ("served", "must be the import path of an app, as 'package.module:app', not 'served'"),
        ("served:", "must be the import path of an app, as 'package.module:app', not 'served:'"),
        (" ", "must be the import path of an app, as 'package.module:app', not ''"),
        (":app", "must be the import path of an app, as 'package.module:app', not ':app'"),
        ("./served.py:app", "must be the import path of an app, as 'package.module:app', not './served.py:app'"),
        ("..served:app", "must be the import path of an app, as 'package.module:app', not '..served:app'"),
        ("inside/served:app", "must be the import path of an app, as 'package.module:app', not 'inside/served:app'"),
        (
            "inside\\served:app",
            "must be the import path of an app, as 'package.module:app', not 'inside\\\\served:app'",
        ),
        (
            "disconnect_mw.app:app",
            "is 'disconnect_mw.app:app', which serves the app that it names: it must name another",
        ),
        ("served:app()", "is 'served:app()', which is no factory but <function app at "),
        ("served:inside()", "is 'served:inside()', which is no factory but namespace("),
        ("serve.it:app", "is 'serve.it:app', but there is no module 'serve': look at sys.path"),
        ("served:ap", "is 'served:ap', but there is no 'ap' in 'served'"),
        ("served:inside.ap", "is 'served:inside.ap', but there is no 'ap' in 'served'"),
        ("served:nothing", "is 'served:nothing', which is no ASGI application but namespace()"),
    ],
)
def test_a_path_to_no_app_is_one_sentence(monkeypatch: pytest.MonkeyPatch, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"DISCONNECT_MW_APP {message}")):
        load(monkeypatch, path)


@pytest.mark.usefixtures("package")
def test_an_import_that_fails_in_the_app_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load(monkeypatch, "broken:app")


def test_what_the_app_configures_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, {"DISCONNECT_MW_LOG": "info"})
    monkeypatch.setattr(LOGGER, "handlers", [])
    before = LOGGER.level
    try:
        configure("WARNING", "json")
        DisconnectMiddleware(endpoint)
        assert (LOGGER.level, len(LOGGER.handlers)) == (logging.WARNING, 1)
    finally:
        LOGGER.setLevel(before)


def test_an_option_that_is_not_given_says_where_it_comes_from() -> None:
    """In an editor, and in `help()`."""
    assert repr(_options.NOT_GIVEN) == "<from the environment>"
