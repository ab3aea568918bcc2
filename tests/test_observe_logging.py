"""The lines of logger `disconnect_mw` are seen (`disconnect_mw.observe.logging`)."""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.logging import RichHandler
from uvicorn.logging import DefaultFormatter

from disconnect_mw import DisconnectMiddleware
from disconnect_mw._backends._base import BY_HAND
from disconnect_mw._telling import LOGGER, log_exchange
from disconnect_mw.observe.logging import Handler, _is_unwritten, configure

from .support.exchanges import EXCHANGE

LINE = "client disconnected: GET /slow from 10.0.0.1:5, before the response: nothing sent, 0 messages muted; "
LINE += "the app went on for 0.250 s and returned"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An app that is never called here."""


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


# Once


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, whose handlers of a test are taken off at its end."""
    before = logging.root.handlers[:]
    yield logging.root
    logging.root.handlers[:] = before


FORMATS: list[Any] = ["text", "json"]


def shown(capsys: pytest.CaptureFixture[str], format: str) -> list[str]:
    """Who has written what was logged, a word for each line on stdout and stderr."""
    configure(format=format)  # type: ignore[arg-type]  # one of two
    LOGGER.info("once")
    return ["json" if line.startswith("{") else line for line in "".join(capsys.readouterr()).splitlines()]


@pytest.mark.parametrize("stream", ["stderr", "stdout"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_line_that_the_root_logger_shows_is_shown_once(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, stream: str, format: str
) -> None:
    """In the app's own look, or in JSON where that was asked for."""
    handler = logging.StreamHandler(getattr(sys, stream))
    root.addHandler(handler)
    for _ in range(2):
        assert shown(capsys, format) == ["json" if format == "json" else "once"]
    logging.getLogger("app").warning("another line")
    assert "".join(capsys.readouterr()) == "another line\n"
    LOGGER.propagate = False
    assert shown(capsys, format) == ["json" if format == "json" else "INFO:     once"]
    assert handler.filters == ([_is_unwritten] if format == "json" else [])


@pytest.mark.parametrize("format", FORMATS)
def test_text_after_json_is_the_root_logger_s_again(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, format: str
) -> None:
    root.addHandler(logging.StreamHandler(sys.stderr))
    assert [shown(capsys, each) for each in ("json", "text", "json")] == [["json"], ["once"], ["json"]]


def drops(record: logging.LogRecord) -> bool:
    return record.name != "disconnect_mw"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("why", ["a filter", "its level", "another stream", "no stream", "a flag"])
def test_a_line_that_the_root_logger_does_not_show_here_is_shown(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, why: str, format: str
) -> None:
    file = io.StringIO()
    handler: Any = logging.StreamHandler(file if why == "another stream" else sys.stderr)
    if why == "a filter":
        handler.addFilter(drops)
    elif why == "its level":
        handler.setLevel(logging.WARNING)
    elif why == "no stream":
        handler = logging.NullHandler()
    elif why == "a flag":
        LOGGER.propagate = False
    root.addHandler(handler)
    assert shown(capsys, format) == ["json" if format == "json" else "INFO:     once"]
    assert bool(file.getvalue()) is (why == "another stream")


@pytest.mark.parametrize("format", FORMATS)
def test_what_goes_to_stdout_is_shown_too_where_stderr_alone_is_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: logging.Logger, format: str
) -> None:
    """`uvicorn myapp:app > log`: what the terminal shows, and what the file has."""
    root.addHandler(logging.StreamHandler(sys.stdout))
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert shown(capsys, format) == ["once"]
    assert "once" in sys.stderr.getvalue()  # type: ignore[union-attr]  # a StringIO


@pytest.mark.parametrize("format", FORMATS)
def test_a_handler_of_rich_shows_it_once(capsys: pytest.CaptureFixture[str], root: logging.Logger, format: str) -> None:
    root.addHandler(RichHandler(console=Console(stderr=True, width=200), show_path=False))
    (line,) = shown(capsys, format)
    assert line == "json" if format == "json" else re.fullmatch(r"\[.*\] INFO +once *", line)


@pytest.mark.parametrize("format", FORMATS)
def test_a_queue_whose_listener_shows_it_shows_it_once(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, format: str
) -> None:
    """Litestar logs that way."""
    records: Any = queue.SimpleQueue()
    listener = logging.handlers.QueueListener(records, logging.StreamHandler(sys.stderr))
    root.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    configure(format=format)  # type: ignore[arg-type]  # one of two
    LOGGER.info("once")
    listener.stop()  # once all of it is written
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "once" or (format == "json" and line.startswith("{"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_queue_of_another_listener_is_none_of_the_terminal_s(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, format: str
) -> None:
    records: Any = queue.SimpleQueue()
    root.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(queue.SimpleQueue(), logging.StreamHandler(sys.stderr))
    listener.start()
    try:
        assert shown(capsys, format) == ["json" if format == "json" else "INFO:     once"]
        assert records.get().getMessage() == "once", "which ships it"
    finally:
        listener.stop()


@pytest.mark.parametrize("format", FORMATS)
def test_a_handler_that_buffers_shows_it_once(
    capsys: pytest.CaptureFixture[str], root: logging.Logger, format: str
) -> None:
    handler = logging.handlers.MemoryHandler(1)
    root.addHandler(handler)
    assert shown(capsys, format) == ["json" if format == "json" else "INFO:     once"], "it has no target"
    handler.setTarget(logging.StreamHandler(sys.stderr))
    handler.flush()
    capsys.readouterr()
    assert shown(capsys, format) == ["json" if format == "json" else "once"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("comes", ["before", "after"])
def test_a_handler_of_the_same_logger_shows_it_once(
    capsys: pytest.CaptureFixture[str], format: str, comes: str
) -> None:
    """As the `--log-config` of the examples has one, and `DISCONNECT_MW_LOG` is set as well."""
    if comes == "after":
        configure(format=format)  # type: ignore[arg-type]  # one of two
    LOGGER.addHandler(logging.StreamHandler(sys.stderr))
    assert shown(capsys, format) == ["json" if format == "json" else "once"]


def test_a_child_s_line_that_its_own_handler_shows_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    child = LOGGER.getChild("of_a_test")
    child.addHandler(logging.StreamHandler(sys.stderr))
    configure(format="json")
    child.info("once")
    assert capsys.readouterr().err == "once\n"


# As the server's


def test_a_field_that_a_filter_of_the_server_s_handler_adds_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asgi-correlation-id documents it."""

    def adds(record: logging.LogRecord) -> bool:
        record.correlation_id = "abc"
        return record.name != "disconnect_mw"  # dropped by the server's, which is none of ours

    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s [%(correlation_id)s] %(message)s"))
    handler.addFilter(adds)
    logging.getLogger("uvicorn").addHandler(handler)
    seen: list[logging.LogRecord] = []

    def keeps(record: logging.LogRecord) -> bool:
        seen.append(record)
        return True

    monkeypatch.setattr(LOGGER, "filters", [keeps])
    configure()
    LOGGER.info("text")
    assert capsys.readouterr().err == "INFO [abc] text\n"
    assert not hasattr(seen[0], "correlation_id"), "the record of others is as it was"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a filter answers yes or no")
def test_a_record_that_a_filter_puts_in_place_of_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: logging.makeLogRecord({**vars(record), "msg": "another", "args": ()}))  # type: ignore[arg-type,return-value]  # since 3.12
    logging.getLogger("uvicorn").addHandler(handler)
    configure()
    LOGGER.info("text")
    assert capsys.readouterr().err == "another\n"


def test_where_the_server_s_format_needs_more_than_there_is_the_line_is_seen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(request_id)s %(message)s"))
    logging.getLogger("uvicorn").addHandler(handler)
    configure()
    LOGGER.info("text")
    assert capsys.readouterr().err == "INFO:     text\n"


@pytest.mark.parametrize(("level", "number"), [("info", 20), ("Warning", 30), (10, 10), ("quiet", 33), ("QUIET", 33)])
def test_a_level_in_any_case(monkeypatch: pytest.MonkeyPatch, level: Any, number: int) -> None:
    monkeypatch.setattr(logging, "_nameToLevel", {**logging.getLevelNamesMapping(), "quiet": 33, "QUIET": 33})
    configure(level)
    assert LOGGER.level == number


NAMES = ("CRITICAL", "FATAL", "ERROR", "WARN", "WARNING", "INFO", "DEBUG")
LEVELS = ", ".join(NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("LOUD",), f"level must be one of {LEVELS}, not 'LOUD': look for a"),
        (("notset",), f"level must be one of {LEVELS}, not 'notset'"),
        ((0,), f"level must be one of {LEVELS}, not 0"),
        ((-1,), f"level must be one of {LEVELS}, not -1"),
        ((True,), "level must be the name or the number of a level of logging, not True"),
        ((None,), "level must be the name or the number of a level of logging, not None"),
        (("INFO", "yaml"), "format must be 'text' or 'json', not 'yaml': look for a misspelling"),
    ],
)
def test_what_there_is_not_is_refused(arguments: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {name: number for name, number in logging.getLevelNamesMapping().items() if name in (*NAMES, "NOTSET")}
    monkeypatch.setattr(logging, "_nameToLevel", levels)  # uvicorn adds one
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


def test_one_that_is_disabled_afterwards_is_enabled_by_the_next_install(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    LOGGER.disabled = True
    DisconnectMiddleware(nothing)
    LOGGER.info("text")
    assert capsys.readouterr().err == "INFO:     text\n"


def test_one_without_a_handler_stays_disabled() -> None:
    LOGGER.disabled, handlers, LOGGER.handlers = True, LOGGER.handlers, []
    try:
        DisconnectMiddleware(nothing)
        assert LOGGER.disabled
    finally:
        LOGGER.disabled, LOGGER.handlers = False, handlers
