"""The lines of logger `disconnect_mw` are seen (`disconnect_mw.observe.logging`)."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.logging import DefaultFormatter

from disconnect_mw._backends._base import BY_HAND
from disconnect_mw._telling import LOGGER, log_exchange
from disconnect_mw.observe.logging import Handler, configure

from .support.exchanges import EXCHANGE

LINE = "client disconnected: GET /slow from 10.0.0.1:5, before the response: nothing sent, 0 messages muted; "
LINE += "the app went on for 0.250 s and returned"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The logger as it was, and no handler of a server's or of pytest's."""
    servers = [logging.getLogger(name) for name in ("uvicorn", "gunicorn.error", "hypercorn.error", "_granian")]
    loggers = [LOGGER, *servers]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    for logger in servers:
        logger.handlers[:] = []
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def test_the_line_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    log_exchange(EXCHANGE, BY_HAND)
    assert capsys.readouterr().err == f"INFO:     {LINE}\n"


def test_the_last_call_counts_and_propagation_remains(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.propagate = False
    for _ in range(3):
        configure("WARNING", "json")
        configure("DEBUG")
    assert LOGGER.level == logging.DEBUG
    assert [type(handler) for handler in LOGGER.handlers] == [Handler]
    assert not LOGGER.propagate
    LOGGER.debug("once")
    assert capsys.readouterr().err == "DEBUG:    once\n"


def test_what_is_below_the_level_is_not_seen(capsys: pytest.CaptureFixture[str]) -> None:
    configure(logging.WARNING)
    log_exchange(EXCHANGE, BY_HAND)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    configure()
    monkeypatch.setattr(sys, "stderr", Terminal())
    LOGGER.info("text")
    assert sys.stderr.getvalue() == "\x1b[32mINFO\x1b[0m:     text\n"  # type: ignore[union-attr]  # a StringIO


@pytest.mark.parametrize(
    ("server", "formatter", "line"),
    [
        ("uvicorn", DefaultFormatter("%(levelprefix)s %(message)s", use_colors=False), r"INFO:     text\n"),
        ("gunicorn.error", logging.Formatter("[%(process)d] [%(levelname)s] %(message)s"), r"\[\d+\] \[INFO\] text\n"),
    ],
)
def test_it_looks_as_the_servers_own_lines(
    capsys: pytest.CaptureFixture[str], server: str, formatter: logging.Formatter, line: str
) -> None:
    for of_server in (None, formatter):
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(of_server)
        logging.getLogger(server).addHandler(handler)
    configure()
    LOGGER.info("text")
    assert re.fullmatch(line, capsys.readouterr().err)


def test_json_has_the_fields_of_the_exchange(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="json")
    log_exchange(EXCHANGE, BY_HAND)
    shown = json.loads(capsys.readouterr().err)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown.pop("time"))
    assert shown == {
        "level": "info",
        "logger": "disconnect_mw",
        "message": LINE,
        "exchange": {
            "disconnect": {
                "protocol": "http",
                "method": "GET",
                "path": "/slow",
                "peer": ["10.0.0.1", 5],
                "phase": "before the response",
                "code": None,
                "seconds": 0.5,
            },
            "status": None,
            "messages_sent": 0,
            "bytes_sent": 0,
            "messages_muted": 0,
            "bytes_muted": 0,
            "seconds": 0.25,
            "ended": "returned",
            "exception": None,
        },
    }


def test_json_has_the_exception_of_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("DEBUG", "json")
    try:
        raise KeyError("one")
    except KeyError:
        LOGGER.debug("caused by %s", "the disconnect", exc_info=True)
    shown = json.loads(capsys.readouterr().err)
    assert shown["message"] == "caused by the disconnect"
    assert shown["exception"].endswith("KeyError: 'one'")


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
def test_a_line_that_the_root_logger_shows_is_not_shown_twice(capsys: pytest.CaptureFixture[str], stream: str) -> None:
    handler = logging.StreamHandler(getattr(sys, stream))
    logging.root.addHandler(handler)
    try:
        configure()
        LOGGER.info("text")
        assert "".join(capsys.readouterr()) == "text\n"
        LOGGER.propagate = False
        LOGGER.info("text")
        assert "".join(capsys.readouterr()) == "INFO:     text\n"
    finally:
        logging.root.removeHandler(handler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LOUD",), "level must be one of CRITICAL, FATAL, ERROR, WARN, WARNING, INFO, DEBUG"),
        ((True,), "level must be the name or the number of a level of logging, not True"),
        ((None,), "level must be the name or the number of a level of logging, not None"),
        (("INFO", "yaml"), "format must be 'text' or 'json', not 'yaml': look for a misspelling"),
    ],
)
def test_what_there_is_not_is_refused(arguments: Any, message: str) -> None:
    before = LOGGER.handlers[:]
    with pytest.raises(ValueError, match=re.escape(message)):
        configure(*arguments)
    assert LOGGER.handlers == before


def test_a_logger_that_a_configuration_has_disabled_is_enabled(capsys: pytest.CaptureFixture[str]) -> None:
    """`logging.config.dictConfig` does that to every logger that it does not name."""
    LOGGER.disabled = True
    configure()
    LOGGER.info("text")
    assert capsys.readouterr().err == "INFO:     text\n"
