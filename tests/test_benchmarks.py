"""What the middleware may cost, as counts that are the same on every machine (P9), and that the benchmarks run.

Times and instructions are for `python -m benchmarks`.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import io
import logging
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import pytest

import disconnect_mw
from benchmarks import __main__ as benchmarks
from benchmarks import _comparison, _counts, _drive, _imports, _instructions, _memory, _plot, _rivals, _rows, _workloads
from benchmarks._goals import GOALS, Goal
from benchmarks._rows import LIMIT, OURS, RIVALS, ROWS, WATCHED, logging_of
from benchmarks._workloads import CHUNKS_SENT, CHUNKS_UPLOADED, WORKLOADS, exchange, http_scope, nothing_is_left

PACKAGE = str(pathlib.Path(disconnect_mw.__file__).parent)
DOCS = pathlib.Path(__file__).parent.parent / "docs"

STAYING = ("GET", "POST", "stream", "upload")
"""The workloads whose client stays, and whose app does nothing but receive and send."""

every_workload = pytest.mark.parametrize("workload", STAYING)
every_mode = pytest.mark.parametrize("row", OURS)


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: collections.Counter[str] = collections.Counter()
        for name in ("create_task", "create_future", "call_soon", "call_at"):
            setattr(self, name, self._counted(name))

    def _counted(self, name: str) -> Callable[..., Any]:
        method = getattr(self, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] += 1
            return method(*args, **kwargs)

        return call


def asked_of_the_loop(exchange: Coroutine[Any, Any, Any]) -> collections.Counter[str]:
    """What a loop was asked for while it ran the exchange."""
    loop = CountingLoop()
    try:
        loop.run_until_complete(asyncio.wait_for(exchange, 10))
        assert not asyncio.all_tasks(loop), "tasks were left behind"
        return loop.asked
    finally:
        loop.close()


def run_by_hand(app: _rows.App, workload: str, count: int) -> None:
    """Run so many exchanges without an event loop. None of them may suspend."""
    for _ in range(count):
        with pytest.raises(StopIteration):
            exchange(app, WORKLOADS[workload], nothing_is_left).send(None)


def python_frames(frame: FrameType | None, until: str) -> tuple[str, ...]:
    """The functions of the package that stand between `frame` and the application's function of that name."""
    names = []
    while frame is not None and frame.f_code.co_name != until:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    assert frame is not None, "the application is not below"
    return tuple(names)


@every_workload
def test_default_path_asks_nothing_of_the_loop(workload: str) -> None:
    """No task, no future, no callback, no timer: what the loop does is the same without the middleware."""

    def asked(row: str) -> collections.Counter[str]:
        app = ROWS[row](WORKLOADS[workload].app)
        return asked_of_the_loop(_drive.run(app, workload, row, 10))

    assert asked("ours") == asked("bare")


@every_workload
def test_default_path_never_suspends_where_the_server_does_not(workload: str) -> None:
    run_by_hand(ROWS["ours"](WORKLOADS[workload].app), workload, 10)


@every_workload
def test_one_frame_stands_between_the_app_and_the_server(workload: str) -> None:
    application = WORKLOADS[workload].app
    workload_name = workload.lower()  # of the function
    seen = collections.Counter[tuple[str, tuple[str, ...]]]()
    chunks = WORKLOADS[workload].body

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        seen["receive", python_frames(sys._getframe(), workload_name)] += 1
        return {"type": "http.request", "body": b"", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        seen["send", python_frames(sys._getframe(), workload_name)] += 1

    asyncio.run(ROWS["ours"](application)(http_scope(), receive, send))

    sent = CHUNKS_SENT + 2 if workload == "stream" else 2
    received = 0 if workload == "stream" else WORKLOADS[workload].body
    assert seen == +collections.Counter({("receive", ("receive",)): received, ("send", ("send",)): sent})


def test_one_frame_stands_between_the_server_and_the_app() -> None:
    seen: list[str] = []

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        await ROWS["ours"](app)(scope, receive, send)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(python_frames(sys._getframe(), "outside"))

    asyncio.run(outside(http_scope(), None, None))

    assert seen == ["__call__"]


def calls_made(exchange: Callable[[], Coroutine[Any, Any, Any]]) -> collections.Counter[str]:
    """How often each function of the package is called in an exchange."""
    calls: collections.Counter[str] = collections.Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            calls[frame.f_code.co_name] += 1

    async def run() -> None:
        await exchange()  # what is done once per process is not counted
        sys.setprofile(note)
        try:
            await exchange()
        finally:
            sys.setprofile(None)

    asyncio.run(run())
    return calls


def test_a_chunk_costs_one_call() -> None:
    """Of the stream's chunks each is one call of Python and no more, and so is each of the upload's."""

    def calls(workload: str, row: str) -> int:
        app = ROWS[row](WORKLOADS[workload].app)
        return sum(calls_made(lambda: _drive.run(app, workload, row, 1)).values())

    assert calls("stream", "ours") <= calls("GET", "ours") + CHUNKS_SENT
    assert calls("upload", "ours") <= calls("POST", "ours") + CHUNKS_UPLOADED - 1


@every_workload
def test_nothing_is_read_ahead(workload: str) -> None:
    """The server's receive is called when the app calls, not once more: reading would defeat back-pressure."""
    transcript = []
    chunks = WORKLOADS[workload].body

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def tell_and_receive() -> Any:
            transcript.append("app")
            return await receive()

        async def yield_and_send(message: Any) -> None:
            await asyncio.sleep(0)  # a reader of our own would have its turn here
            await send(message)

        await WORKLOADS[workload].app(scope, tell_and_receive, yield_and_send)

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        transcript.append("server")
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    asyncio.run(ROWS["ours"](app)(http_scope(), receive, send))

    assert transcript == ["app", "server"] * (0 if workload == "stream" else WORKLOADS[workload].body)


@pytest.mark.parametrize("listeners", [1, 2, 5])
def test_listeners_of_a_stream_cost_one_task_at_most(listeners: int) -> None:
    most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        await receive()
        listening = [asyncio.ensure_future(receive()) for _ in range(listeners)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()))
        await send({"type": "http.response.body", "body": b""})
        for one in listening:
            one.cancel()
        await asyncio.gather(*listening, return_exceptions=True)

    async def exchange() -> None:
        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        await ROWS["ours"](app)(http_scope(), receive, send)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"

    asyncio.run(exchange())

    assert most <= 1 + listeners + 1


def test_a_listener_that_is_cancelled_and_not_awaited_leaves_no_task_behind() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        listening.cancel()

    async def exchange() -> None:
        body = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            pass

        await ROWS["ours"](app)(http_scope(), receive, send)
        for _ in range(3):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(exchange())


def test_an_exchange_leaves_no_cycle_for_the_garbage_collector() -> None:
    app = ROWS["ours"](WORKLOADS["stream"].app)
    run_by_hand(app, "stream", 1)
    gc.collect()
    gc.disable()
    try:
        run_by_hand(app, "stream", 1)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="tracemalloc is CPython's")
def test_an_open_stream_holds_a_kibibyte_more_at_most() -> None:
    more = _memory.per_stream("open stream", "ours") - _memory.per_stream("open stream", "bare")
    assert more <= GOALS["memory", "ours"].bound


# The modes


@every_workload
@every_mode
def test_request_under_50_ms_makes_no_task_in_any_mode(workload: str, row: str) -> None:
    assert _counts.tasks_made(workload, row) == 0


@every_mode
def test_request_over_50_ms_makes_one_task_where_the_watcher_checks(row: str) -> None:
    assert _counts.tasks_made(_counts.LONG, row) == (row in WATCHED)


@every_workload
@pytest.mark.parametrize("row", WATCHED)
def test_exchanges_that_are_watched_share_a_timer(workload: str, row: str) -> None:
    """What the watcher asks of the loop is the same for one exchange and for ten."""

    async def exchanges(count: int) -> None:
        app = ROWS[row](WORKLOADS[workload].app)
        with logging_of(row):
            for _ in range(count):
                await exchange(app, WORKLOADS[workload], nothing_is_left)

    assert asked_of_the_loop(exchanges(0)) != asked_of_the_loop(exchanges(1)) == asked_of_the_loop(exchanges(10))


@pytest.mark.parametrize("row", ["ours", "info"])
def test_one_departure_makes_two_tasks_at_most(row: str) -> None:
    """One reads from the server for the app, the other completes the response. Through two closures there is none."""
    assert _counts.tasks_made("departure", row) <= 2
    assert _counts.tasks_made("departure", LIMIT) == 0


@every_mode
def test_nothing_is_read_of_a_body_that_the_app_has_not_asked_for(row: str) -> None:
    assert _counts.read_ahead(row, answers_first=False) == 0


@every_mode
def test_one_message_at_most_is_read_of_a_body_once_the_app_answers_without_it(row: str) -> None:
    assert _counts.read_ahead(row, answers_first=True) <= 1


@pytest.mark.parametrize("row", ["cancel", "hook"])
def test_handler_is_cancelled_two_turns_after_the_server_knows(row: str) -> None:
    pytest.importorskip("uvicorn")
    from benchmarks import _cancellations

    assert _cancellations.measure(row, 3).turns <= GOALS["turns", row].bound


def test_tasks_are_counted_however_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> None:
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.create_task(nothing())
        await loop.create_task(nothing())
        await asyncio.Task(nothing(), loop=loop)
        await asyncio.gather(nothing())

    monkeypatch.setitem(WORKLOADS, "GET", WORKLOADS["GET"]._replace(app=app))

    assert _counts.tasks_made("GET", "bare") == 4


def test_messages_that_a_middleware_pulls_in_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(app: _rows.App) -> _rows.App:
        async def middleware(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["more_body"]:
                pass
            await app(scope, receive, send)

        return middleware

    monkeypatch.setitem(ROWS, "bare", greedy)

    assert _counts.read_ahead("bare", answers_first=False) == _counts.CHUNKS_OFFERED


def test_import_brings_in_neither_an_event_loop_nor_web_code() -> None:
    modules, _ = _imports.measure(repetitions=1)
    families = {module.partition(".")[0] for module in modules}

    assert families.isdisjoint({"asyncio", "trio", "anyio", "sniffio", "uvloop", "selectors", "socket", "ssl"})
    assert families - sys.stdlib_module_names == {"disconnect_mw"}


def test_import_is_small() -> None:
    """Modules, not milliseconds: the standard library's are some 60 where dataclasses and logging are among them."""
    modules, seconds = _imports.measure(repetitions=1)
    print(f"import disconnect_mw: {len(modules)} modules, {seconds * 1e3:.1f} ms")
    own = [module for module in modules if module.partition(".")[0] == "disconnect_mw"]
    assert (len(own) <= 25, len(modules) - len(own) <= 65) == (True, True), modules


def test_beside_an_app_it_imports_next_to_nothing_of_the_standard_library() -> None:
    """What costs most, dataclasses and logging, Starlette and each server have imported."""
    pytest.importorskip("starlette")
    program = (
        "import sys, starlette.applications; before = set(sys.modules); "
        "import disconnect_mw; print(*sorted(set(sys.modules) - before))"
    )
    answered = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    added = [module for module in answered.stdout.split() if module.partition(".")[0] != "disconnect_mw"]
    assert set(added) <= {"gc"}


# The benchmarks themselves


@pytest.mark.parametrize(("workload", "row"), [(name, row) for name in WORKLOADS for row in WORKLOADS[name].rows])
def test_every_row_runs_every_workload(workload: str, row: str) -> None:
    if row == "base" or workload == "Starlette":
        pytest.importorskip("starlette")
    if row in RIVALS and not _rivals.are_here([row]):
        pytest.skip(f"{row} {_rivals.PINS[row]} is not installed")
    with _rows.logging_of(row):
        asyncio.run(_drive.run(ROWS[row](WORKLOADS[workload].app), workload, row, 2))


def departed(row: str) -> list[str]:
    """What the server is sent in one departure."""
    sent = []
    played = WORKLOADS["departure"]

    def outside(app: _rows.App) -> _rows.App:
        async def server(scope: Any, receive: Any, send: Any) -> None:
            async def note_and_send(message: Any) -> None:
                sent.append(message["type"])
                await send(message)

            await app(scope, receive, note_and_send)

        return server

    with _rows.logging_of(row):
        asyncio.run(exchange(outside(ROWS[row](played.app)), played, _workloads.after_body(played, row)))
    return sent


def test_departure_mutes_what_the_app_sends_after_the_disconnect() -> None:
    """Server and app are the same in every row: through two closures the server is sent every message."""
    before, after = _workloads.CHUNKS_BEFORE_DISCONNECT, _workloads.CHUNKS_AFTER_DISCONNECT
    assert len(departed("bare")) == len(departed(LIMIT)) == 1 + before + after + 1
    assert len(departed("ours")) == len(departed("info")) == 1 + before + 1  # completed for outer middleware


def test_departure_is_logged_in_the_row_at_info_alone_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    lines = []

    class Handler(logging.NullHandler):
        def handle(self, record: logging.LogRecord) -> bool:
            lines.append(record.getMessage())
            return True

    monkeypatch.setattr(logging, "NullHandler", Handler)
    logging.disable(logging.CRITICAL)  # as the comparison does
    try:
        departed("info")
        departed("ours")
    finally:
        logging.disable(logging.NOTSET)

    (line,) = lines
    assert line.startswith("client disconnected: GET / from 127.0.0.1:1")
    logger = logging.getLogger("disconnect_mw")
    assert (logger.level, logger.propagate, logger.handlers) == (logging.NOTSET, True, [])
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []  # of the root logger, whose handler would print


def test_starlette_streams_its_chunks_beside_a_listener() -> None:
    """Where the scope says 2.3 the response listens: that is what its row costs."""
    pytest.importorskip("starlette")
    assert _counts.tasks_made("Starlette", "bare") == 1


@pytest.mark.skipif(_instructions.valgrind_version() is None, reason="no valgrind here")
def test_instructions_are_counted_between_the_marks() -> None:
    """And nothing else is: the start of the interpreter takes more than 10,000,000 instructions."""
    mark = f"os.{_drive.MARK}(0)"
    lines = ["import os", "def loop(n):", " for _ in range(n): pass", mark, "loop(1000)", mark, "loop(3000)", mark]

    one, three = _instructions.between_marks("-I", "-S", "-c", "\n".join(lines))

    assert 10_000 < 2 * one < three < 4 * one < 1_000_000


@every_workload
def test_marks_enclose_the_exchanges_that_are_counted(monkeypatch: pytest.MonkeyPatch, workload: str) -> None:
    exchanges = 0
    marks = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal exchanges
        exchanges += 1

    monkeypatch.setitem(WORKLOADS, workload, WORKLOADS[workload]._replace(app=app))
    monkeypatch.setattr(os, _drive.MARK, lambda pid: marks.append(exchanges))

    asyncio.run(_drive.run_counted(workload, "ours", 7))

    before, after = marks
    assert before >= 5  # the warm-up
    assert after == before + 7


@pytest.fixture
def no_valgrind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting instructions takes minutes."""
    monkeypatch.setattr(_instructions, "valgrind_version", lambda: None)


@pytest.mark.usefixtures("no_valgrind")
def test_table_fits_80_columns_and_says_what_ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_memory, "_STREAMS", 20)
    monkeypatch.setattr(_drive, "SECONDS_TO_CHECK", 0)
    for workload in ("GET", "upload"):
        monkeypatch.setitem(WORKLOADS, workload, WORKLOADS[workload]._replace(repetitions=5))
    parts = ("--only", "time", "memory", "import")
    status = benchmarks.main(["--quick", *parts, "--rows", "bare", "ours", "hook", "--workloads", "GET", "upload"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert max(map(len, lines)) <= 80
    assert f"disconnect_mw {disconnect_mw.__version__}" in lines[0]
    assert "two closures" in "\n".join(lines)  # what everything is compared with


def test_widest_numbers_fit_80_columns() -> None:
    out = io.StringIO()
    report = benchmarks.Report(out)
    measured = {(workload, row): 9_999_999.0 if row == "base" else 10_000 for workload in WORKLOADS for row in ROWS}
    benchmarks._compare(report, "", measured, benchmarks.instructions)
    benchmarks._compare(report, "", {("stream", LIMIT): 1e6, ("stream", "base"): 999e6}, benchmarks.instructions)
    report.judge("requests/s of processor time, Starlette app", GOALS["requests", "ours"], 0.999)
    report.judge("turns until cancelled, cancel + hook", GOALS["turns", "hook"], 2)
    report.judge("bytes per open stream", GOALS["memory", "ours"], 99_999)
    report.verdict()
    assert max(map(len, out.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(("reached", "status"), [(True, 0), (False, 1)])
def test_check_fails_where_a_goal_was_missed(monkeypatch: pytest.MonkeyPatch, reached: bool, status: int) -> None:
    def judge(report: benchmarks.Report) -> None:
        report.judge("goal", Goal(2), 2 if reached else 3)

    monkeypatch.setattr(benchmarks, "_report_import", judge)

    assert benchmarks.main(["--only", "import", "--check"]) == status
    assert benchmarks.main(["--only", "import"]) == 0


def printed(of: dict[tuple[str, str], float], capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, int]:
    """What is printed where callgrind counts these instructions, by workload and row; and the exit status."""

    def measure(workloads: list[str], times: dict[str, int], progress: object) -> dict[tuple[str, str], float]:
        return {(workload, row): of[workload, row] for workload, row in of if workload in workloads and row in times}

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_instructions, "valgrind_version", lambda: "3.19.0")
        monkeypatch.setattr(_instructions, "measure", measure)
        status = benchmarks.main(["--only", "instructions", *options])
    return capsys.readouterr().out, status


RATIOS = {cell: goal.bound for cell, goal in GOALS.items() if cell[0] in WORKLOADS}


@pytest.mark.parametrize("missed", [None, *RATIOS])
def test_every_goal_of_instructions_is_judged_by_default(
    missed: tuple[str, str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {(workload, row): 1000.0 for workload in WORKLOADS for row in WORKLOADS[workload].rows}
    measured |= {(workload, "bare"): 700.0 for workload in WORKLOADS}
    for (workload, row), bound in RATIOS.items():
        measured[workload, row] = measured[workload, WORKLOADS[workload].compared_with] * bound
        measured[workload, row] += (workload, row) == missed

    output, status = printed(measured, capsys, "--check")

    assert output.count("reached") == len(RATIOS) - (missed is not None)
    assert output.count("MISSED") == status == (missed is not None)


def test_requests_of_starlettes_app_alone_are_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import _requests

    def measure(app: str, rows: list[str], *arguments: object) -> tuple[str, dict[str, list[_requests.Measured]]]:
        taken = {"bare": 0.91, LIMIT: 0.95, "ours": 1.0}  # 0.91 of the bare app's requests, in either app
        return "a stack", {row: [_requests.Measured(1 / taken[row], taken[row])] for row in rows}

    monkeypatch.setattr(_requests, "measure", measure)

    assert benchmarks.main(["--only", "requests", "--check"]) == 1

    output = capsys.readouterr().out
    assert output.count("Requests, ") == 2
    assert output.count("MISSED") == 1
    assert "requests/s of processor time, Starlette app" in output


def test_starlettes_stream_is_compared_with_the_bare_app(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {("Starlette", "bare"): 1000.0, ("Starlette", LIMIT): 1160.0, ("Starlette", "cancel"): 1220.0}

    output, _ = printed(measured, capsys)

    words = " ".join(output.split())
    assert "bare app 1,000 1.00 x two closures 1,160 1.16 x cancel 1,220 1.22 x" in words
    assert "compared with the bare app" in words


def test_departure_says_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    output, _ = printed({("departure", LIMIT): 1000.0, ("departure", "ours"): 3400.0}, capsys)

    words = " ".join(output.split())
    assert "disconnect_mw 3,400 3.40 x" in words
    assert "sends 8 chunks and waits in receive; the client leaves; the app receives http.disconnect, sends 2" in words


@pytest.mark.parametrize(
    ("of", "words"), [(1, "1.00"), (9.99, "9.99"), (9.996, "10.0"), (99.9, "99.9"), (99.96, " 100"), (482, " 482")]
)
def test_ratio_takes_four_characters(of: float, words: str) -> None:
    assert benchmarks.ratio(of, 1) == words


# The rivals


def test_rivals_are_named_with_their_versions_and_nowhere_else() -> None:
    assert tuple(_rivals.PINS) == RIVALS


@pytest.mark.usefixtures("no_valgrind")
def test_comparison_says_loudly_which_rival_it_could_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_rivals, "PYTHONS", ("2.0",))
    monkeypatch.setattr(_rivals, "are_here", lambda rivals: not rivals)

    status = benchmarks.main(["--quick", "--only", "comparison", "--workloads", "GET", "--rows", "ours", "aiofence"])

    printed = capsys.readouterr().out
    assert status == 0
    assert f"!! NOT COMPARED: aiofence {_rivals.PINS['aiofence']}: there is no Python 2.0 here" in printed
    assert "\ndisconnect_mw   " in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_rival_that_does_not_install_is_left_out_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def install(interpreter: pathlib.Path, *wanted: str) -> None:
        if any("aiofence" in one for one in wanted):
            raise OSError("no such version")

    monkeypatch.setattr(_rivals, "PYTHONS", (".".join(map(str, sys.version_info[:2])),))
    monkeypatch.setattr(_rivals, "_make", lambda python, directory: directory.mkdir())
    monkeypatch.setattr(_rivals, "_install", install)

    interpreter = _rivals.find_interpreter(RIVALS, tmp_path)

    assert interpreter.missing == {"aiofence": "no such version"}
    assert not list(tmp_path.glob("*/complete"))  # so that it is tried anew the next time


# The picture


DRAWN = [name for name, workload in WORKLOADS.items() if workload.compared_with == LIMIT]
"""The picture compares with two closures."""


def numbers(rows: list[str]) -> _comparison.Numbers:
    """Made up."""
    workloads = list(WORKLOADS)
    per_cell = {workload: {row: 1000.0 * 2**index for index, row in enumerate(rows)} for workload in workloads}
    return _comparison.Numbers(
        date="2000-01-01",
        versions={"CPython": "3.99", "disconnect_mw": "9.9"},
        rows=rows,
        workloads=workloads,
        instructions=per_cell,
        microseconds=per_cell,
        tasks={workload: dict.fromkeys(rows, 3) for workload in (*workloads, _counts.LONG)},
        read_ahead=dict.fromkeys(rows, 7),
        megabytes=dict.fromkeys(rows, 1.25),
        cancellations={"cancel": _comparison.Cancellation(microseconds=41.5, turns=2)},
    )


def marks(svg: str) -> list[str]:
    """The row, the workload and the ratio of each mark that is drawn."""
    return re.findall(r'id="([^":]+:[^":]+:[^":]+)"', svg)


@pytest.mark.parametrize("theme", _plot.THEMES)
def test_picture_names_what_ran_and_when_and_places_each_number(theme: str) -> None:
    picture = _plot.svg(numbers(["two", "cancel", "base"]), theme)

    texts = [text.strip() for text in ElementTree.fromstring(picture).itertext()]
    assert "CPython 3.99, disconnect_mw 9.9, 2000-01-01" in texts
    assert texts.count("42 µs, 2") == 1
    assert sorted(marks(picture)) == sorted(
        f"{row}:{workload}:{ratio}" for row, ratio in (("two", 1), ("cancel", 2), ("base", 4)) for workload in DRAWN
    )


def test_pictures_are_drawn_anew_from_their_numbers(tmp_path: pathlib.Path) -> None:
    svg = tmp_path / "one.svg"
    _comparison.save(numbers(list(ROWS)), svg.with_suffix(".json"))

    assert benchmarks.main(["--redraw", str(svg)]) == 0

    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["one-dark.svg", "one-light.svg"]
    for theme, path in _plot.paths(svg).items():
        assert path.read_text(encoding="utf-8") == _plot.svg(numbers(list(ROWS)), theme)


@pytest.mark.parametrize("less", [["--quick"], ["--rows", "ours"], ["--workloads", "GET"], ["--only", "time"]])
def test_picture_of_less_than_all_is_refused(less: list[str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit):
        benchmarks.main(["--plot", str(tmp_path / "one.svg"), *less])


def test_picture_of_what_could_not_be_measured_is_not_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: object) -> tuple[_comparison.Numbers, dict[str, str]]:
        return numbers(list(ROWS)), {"aiofence": "no such version"}

    monkeypatch.setattr(_comparison, "measure_with_rivals", measure)

    assert benchmarks.main(["--only", "comparison", "--plot", str(tmp_path / "one.svg")]) == 1
    assert "!! NOT DRAWN" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# What the documentation shows

PICTURE = DOCS / "benchmarks.svg"
shows = pytest.mark.skipif(not DOCS.exists(), reason="NOT tested here: no documentation beside the tests")


@shows
@pytest.mark.parametrize("theme", _plot.THEMES)
def test_picture_in_the_documentation_is_what_the_numbers_beside_it_make(theme: str) -> None:
    drawn = _plot.svg(_comparison.load(PICTURE.with_suffix(".json")), theme)
    shown = _plot.paths(PICTURE)[theme].read_text(encoding="utf-8")
    assert shown == drawn, "run python -m benchmarks --redraw docs/benchmarks.svg"


@shows
@pytest.mark.parametrize("theme", _plot.THEMES)
def test_picture_in_the_documentation_shows_every_row_and_workload(theme: str) -> None:
    shown = _comparison.load(PICTURE.with_suffix(".json"))
    assert (shown["rows"], shown["workloads"]) == (list(ROWS), list(WORKLOADS))
    drawn = [mark.rpartition(":")[0] for mark in marks(_plot.paths(PICTURE)[theme].read_text(encoding="utf-8"))]
    assert sorted(drawn) == sorted(f"{row}:{name}" for name in DRAWN for row in WORKLOADS[name].rows)


@shows
@pytest.mark.parametrize("row", ["bare", LIMIT, *OURS])
@pytest.mark.parametrize("workload", [*WORKLOADS, _counts.LONG])
def test_tasks_in_the_documentation_are_todays(workload: str, row: str) -> None:
    if workload in WORKLOADS and row not in WORKLOADS[workload].rows:
        pytest.skip("not measured")
    assert _comparison.load(PICTURE.with_suffix(".json"))["tasks"][workload][row] == _counts.tasks_made(workload, row)
