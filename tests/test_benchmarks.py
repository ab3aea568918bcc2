"""What the middleware may cost, as counts that are the same on every machine (P9), and that the benchmarks run.

Times and instructions are for `python -m benchmarks`.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import io
import pathlib
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import pytest

import disconnect_mw
from benchmarks import __main__ as benchmarks
from benchmarks import _drive, _imports, _memory
from benchmarks._workloads import CHUNKS_RECEIVED, CHUNKS_SENT, NEEDS_LOOP, ROWS, WORKLOADS, http_scope

PACKAGE = str(pathlib.Path(disconnect_mw.__file__).parent)

every_workload = pytest.mark.parametrize("workload", WORKLOADS)


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
        app = ROWS[row](WORKLOADS[workload])
        return asked_of_the_loop(_drive.in_loop(app, CHUNKS_RECEIVED[workload], 10))

    assert asked("ours") == asked("bare")


@every_workload
def test_default_path_never_suspends_where_the_server_does_not(workload: str) -> None:
    _drive.by_hand(ROWS["ours"](WORKLOADS[workload]), CHUNKS_RECEIVED[workload], 10)


@every_workload
def test_one_frame_stands_between_the_app_and_the_server(workload: str) -> None:
    application = WORKLOADS[workload]
    seen = collections.Counter[tuple[str, tuple[str, ...]]]()
    chunks = CHUNKS_RECEIVED[workload]

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        seen["receive", python_frames(sys._getframe(), application.__name__)] += 1
        return {"type": "http.request", "body": b"", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        seen["send", python_frames(sys._getframe(), application.__name__)] += 1

    asyncio.run(ROWS["ours"](application)(http_scope(), receive, send))

    sent = CHUNKS_SENT + 2 if workload == "stream" else 2
    received = 0 if workload == "stream" else CHUNKS_RECEIVED[workload]
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
        app = ROWS[row](WORKLOADS[workload])
        return sum(calls_made(lambda: _drive.in_loop(app, CHUNKS_RECEIVED[workload], 1)).values())

    fixed = calls("GET", "ours")  # the start, the end, one receive

    assert calls("stream", "ours") <= fixed + CHUNKS_SENT
    assert calls("upload", "ours") <= fixed + CHUNKS_RECEIVED["upload"]


@every_workload
def test_nothing_is_read_ahead(workload: str) -> None:
    """The server's receive is called when the app calls, not once more: reading would defeat back-pressure."""
    transcript = []
    chunks = CHUNKS_RECEIVED[workload]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def tell_and_receive() -> Any:
            transcript.append("app")
            return await receive()

        async def yield_and_send(message: Any) -> None:
            await asyncio.sleep(0)  # a reader of our own would have its turn here
            await send(message)

        await WORKLOADS[workload](scope, tell_and_receive, yield_and_send)

    async def receive() -> Any:
        nonlocal chunks
        chunks -= 1
        transcript.append("server")
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": chunks > 0}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    asyncio.run(ROWS["ours"](app)(http_scope(), receive, send))

    assert transcript == ["app", "server"] * (0 if workload == "stream" else CHUNKS_RECEIVED[workload])


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
    app = ROWS["ours"](WORKLOADS["stream"])
    _drive.by_hand(app, 1, 1)
    gc.collect()
    gc.disable()
    try:
        _drive.by_hand(app, 1, 1)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="tracemalloc is CPython's")
def test_an_open_stream_holds_a_kibibyte_more_at_most() -> None:
    """More than the bare app; before 3.11, whose frames are larger, more than the two closures, which hold 955."""
    without = "bare" if sys.version_info >= (3, 11) else "two"
    more = _memory.per_stream("open stream", "ours") - _memory.per_stream("open stream", without)
    assert more <= benchmarks.MEMORY_GOAL


def test_import_brings_in_neither_an_event_loop_nor_web_code() -> None:
    modules, _ = _imports.measure(repetitions=1)
    families = {module.partition(".")[0] for module in modules}

    assert families.isdisjoint({"asyncio", "trio", "anyio", "sniffio", "uvloop", "selectors", "socket", "ssl"})
    assert families - sys.stdlib_module_names == {"disconnect_mw"}


def test_import_is_small() -> None:
    """Modules, not milliseconds: the standard library's are some 60 where inspect and logging are among them."""
    modules, seconds = _imports.measure(repetitions=1)
    print(f"import disconnect_mw: {len(modules)} modules, {seconds * 1e3:.1f} ms")
    assert len(modules) <= 90


# The benchmarks themselves


@every_workload
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("driver", ["by hand", "asyncio"])
def test_every_row_runs_every_workload(workload: str, row: str, driver: str) -> None:
    if row in NEEDS_LOOP:
        pytest.importorskip("starlette")
    enabled = gc.isenabled()
    try:
        _drive.main(workload, row, "2", "asyncio" if row in NEEDS_LOOP else driver)
    finally:
        if enabled:
            gc.enable()


def test_table_fits_80_columns_and_says_what_ran(capsys: pytest.CaptureFixture[str]) -> None:
    status = benchmarks.main(["--quick", "--only", "time", "memory", "import", "--rows", "bare", "ours"])

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert max(map(len, lines)) <= 80
    assert f"disconnect_mw {disconnect_mw.__version__}" in lines[0]
    assert "two closures" in "\n".join(lines)  # what everything is compared with


def test_widest_numbers_fit_80_columns() -> None:
    out = io.StringIO()
    report = benchmarks.Report(out)
    report.table("", ["GET", "stream of 100", "upload of 50"], {"BaseHTTPMiddleware": ["99,999,999 999.99 x"] * 3})
    report.goal("requests/s of processor time, Starlette app", ">= 0.98 x", "0.999 x", True)
    report.verdict()
    assert max(map(len, out.getvalue().splitlines())) <= 80


@pytest.mark.parametrize(("reached", "status"), [(True, 0), (False, 1)])
def test_check_fails_where_a_goal_was_missed(monkeypatch: pytest.MonkeyPatch, reached: bool, status: int) -> None:
    def goal(report: benchmarks.Report) -> None:
        report.goal("goal", "<= 1", "2", reached)

    monkeypatch.setattr(benchmarks, "_report_import", goal)

    assert benchmarks.main(["--only", "import", "--check"]) == status
    assert benchmarks.main(["--only", "import"]) == 0
