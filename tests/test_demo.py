"""The command line and its demo: what they print, what they answer, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import logging
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import disconnect_mw
from disconnect_mw import _throw_away
from disconnect_mw.__main__ import main
from disconnect_mw._demo import run as run_module
from disconnect_mw._demo import server as server_module
from disconnect_mw._demo.app import serve
from disconnect_mw._demo.environment import this_environment, throw_away_environment
from disconnect_mw._demo.report import _NEXT, Report, make_console
from disconnect_mw._demo.run import play
from disconnect_mw._demo.scenes import SCENES, Evidence, Scene, faults
from disconnect_mw._demo.server import DemoError, Server
from disconnect_mw._environment import APP, LOG

PACKAGE = Path(disconnect_mw.__file__).parent
UPLOAD, FEED, *_, EVENTS = SCENES
SECONDS = 60.0  # no wait here is longer

PLAIN = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")}

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs /bin/sh and signals")


def demo(*arguments: str, directory: Path) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    import_path = os.pathsep.join([str(directory), *map(os.path.abspath, sys.path)])
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "disconnect_mw", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**PLAIN, "PYTHONPATH": import_path, "TMPDIR": str(directory)},
        )
    finally:
        signal.signal(signal.SIGINT, before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# The main job


def test_the_demo_shows_both_sides_in_80_columns(tmp_path: Path) -> None:
    process = demo("demo", directory=tmp_path)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, ""), output
    assert max(map(len, output.splitlines())) <= 80
    assert "\033" not in output
    assert f"uvicorn {uvicorn.__version__} " in output
    assert f"disconnect-mw {disconnect_mw.__version__} " in output
    assert all(scene.title in output for scene in SCENES)
    # What hurts today, and its absence, first.
    first = output[: output.index(FEED.title)]
    assert UPLOAD.title in first
    assert re.search(r"log +2 ERRORs, 2 tracebacks +no ERROR, 2 INFO lines", first)
    traceback = r"Traceback \(most recent call last\):\n +\.\.\. \d+ lines\n +starlette.requests.ClientDisconnect\n"
    assert re.search(traceback, first)
    assert "INFO:     disconnect_mw: client disconnected: POST /upload from" in first
    assert re.search(r"app +computed, cleaned up +stopped, cleaned up", output)
    assert "disconnect_mw: client disconnected: GET /report from 127.0.0.1" in " ".join(output.split())
    assert "With the middleware everything was as promised.\n\nWhat to do next\n" in output
    assert list(tmp_path.iterdir()) == []


def test_a_middleware_that_does_nothing_makes_the_exit_status_1(tmp_path: Path) -> None:
    package = tmp_path / "disconnect_mw"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "_middleware.py").open("a") as module:
        module.write("\n\nDisconnectMiddleware.__call__ = lambda self, *arguments: self._app(*arguments)\n")
    process = demo("demo", directory=tmp_path)
    output, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (1, "")
    assert max(map(len, output.splitlines())) <= 80
    verdict = output[output.index("With the middleware this was not as promised:") :]
    assert "events: 0 INFO lines for 2 clients that left" in verdict
    assert "answer: 'computed, cleaned up', not 'stopped, cleaned up'" in verdict
    assert "What to do next" not in verdict
    assert re.search(r"upload: [1-9]\d* ERROR lines and [1-9]\d* tracebacks in the log", verdict)


@posix_only
def test_ctrl_c_ends_the_demo_and_its_servers(tmp_path: Path) -> None:
    process = demo("demo", directory=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()  # the servers are running
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors.strip()) == (130, "interrupted")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    assert "as promised" in capsys.readouterr().out


# The command line


def test_without_a_command_it_shows_what_one_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    """What it shows has the names of what there is."""
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^    demo  ", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80 + len("on every ASGI server.")  # one line of the package's own
    assert "from disconnect_mw import DisconnectMiddleware" in shown
    assert set(re.findall(r"DISCONNECT_MW_\w+", shown)) == {LOG, APP}
    assert importlib.util.find_spec("disconnect_mw.app") is not None
    assert "asgi_visit(app, HTTPClient(" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        (["--version"], 0, f"disconnect-mw {disconnect_mw.__version__}\n"),
        (["--help"], 0, "usage: disconnect-mw"),
        (["demo", "--help"], 0, "--uvicorn VERSION"),
        (["dmeo"], 2, "invalid choice: 'dmeo'"),
        (["demo", "--uvicorn"], 2, "expected one argument"),
        (["demo", "0.28.0"], 2, "unrecognized arguments: 0.28.0"),
    ],
)
def test_arguments(arguments: list[str], status: int, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == status
    assert printed in "".join(capsys.readouterr())


def test_the_help_counts_the_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    number = ("no", "one", "two", "three", "four", "five", "six", "seven")[len(SCENES)]
    assert f"{number} kinds of exchange" in " ".join(capsys.readouterr().out.split())


def test_python_m_is_the_same_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["disconnect-mw"])
    monkeypatch.delitem(sys.modules, "disconnect_mw.__main__")
    # pytest rewrites the modules of a distribution that has a plugin, and runpy cannot run what is rewritten.
    finders = [finder for finder in sys.meta_path if type(finder).__name__ != "AssertionRewritingHook"]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("disconnect_mw", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: disconnect-mw")


def test_the_package_does_not_import_its_demo() -> None:
    program = (
        "import sys, disconnect_mw; print(*(name for name in sys.modules if '_demo' in name or 'uvicorn' in name))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert (result.stdout, result.stderr) == ("\n", "")


def test_an_interruption_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


@posix_only
def test_a_reader_that_has_seen_enough_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["demo"]) == 1
        output.write("what is still to be flushed")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ({"uvicorn"}, "uvicorn, which is"),
        ({"uvicorn", "starlette"}, "starlette, uvicorn, which are"),
        ({"rich"}, "rich, which is"),
    ],
)
def test_a_missing_extra_is_named(
    missing: set[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else object())
    assert main(["demo"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == f'disconnect-mw: the demo needs {named} not installed here: pip install "disconnect-mw[demo]"'


# Another uvicorn


def fake_uv(directory: Path, monkeypatch: pytest.MonkeyPatch, *, make: str, install: str) -> None:
    """Put a `uv` of two lines of shell in front of all others: no network in tests."""
    uv = directory / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\nfor last; do :; done\ncase "$1" in\nvenv) {make};;\npip) {install};;\nesac\n')
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=os.pathsep)


@posix_only
@pytest.mark.parametrize("version", [uvicorn.__version__, "0.13.4"])
def test_another_uvicorn_is_shown_in_a_throw_away_environment(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is installed beside the package that runs now, the servers run there, and nothing of it is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    packages = next(path for path in sys.path if Path(path, "uvicorn").is_dir())
    site_packages = f"$last/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    fake_uv(
        tmp_path,
        monkeypatch,
        make=f'{sys.executable} -m venv --without-pip "$last" && echo {packages} > "{site_packages}/demo.pth"',
        install=f'echo "$*" > {tmp_path}/installed',
    )
    assert main(["demo", "--uvicorn", version]) == 0
    output = capsys.readouterr().out
    assert re.match(rf"Installing uvicorn {version} in a throw-away environment \(uv\): \d+ s\n", output)
    installed = (tmp_path / "installed").read_text().split()
    websockets = "websockets<14" if version == "0.13.4" else "websockets"
    assert installed[-5:] == [f"uvicorn=={version}", "starlette", "asgiref", "httptools", websockets]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("version", ["", "latest", "0.28.0 evil", "-e .", "https://example.org/uvicorn.whl"])
def test_what_is_no_version_is_refused(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", f"--uvicorn={version}"]) == 2
    assert f"must be a version such as 0.28.0, not {version!r}" in " ".join(capsys.readouterr().err.split())


@posix_only
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "  x No solution found when resolving dependencies:\n  Because there is no version of uvicorn==9.9.9 and\n",
            "there is no uvicorn 9.9.9 for this Python: see pip index versions uvicorn",
        ),
        (
            "error: Request failed after 3 retries\n  Caused by: dns error\n",
            "uvicorn 9.9.9 could not be installed (is there a network?); "
            "the installer's last line: Caused by: dns error",
        ),
        ("", "uvicorn 9.9.9 could not be installed (is there a network?); the installer's last line: nothing"),
    ],
)
def test_a_failed_installation_says_why(
    said: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "said").write_text(said)
    fake_uv(tmp_path, monkeypatch, make="exit 0", install=f"cat {tmp_path}/said; exit 1")
    assert main(["demo", "--uvicorn", "9.9.9"]) == 2
    assert " ".join(capsys.readouterr().err.split()) == f"disconnect-mw: {told}"


@posix_only
@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ("none", r"is there a network\?"),
        ("0.54.0); connection broken", r"is there a network\?"),
        ("0.1.0, 0.54.0", "there is no uvicorn 9.9.9 for this Python"),
    ],
)
def test_without_uv_it_is_venv_and_pip(
    versions: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network pip, too, finds no matching distribution; that is not put down to the version."""
    python, pip = tmp_path / "python", tmp_path / "pip"
    python.write_text(f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/bin" && cp {pip} "$last/bin/python"\n')
    pip.write_text(
        "#!/bin/sh\n"
        f'echo "ERROR: Could not find a version that satisfies the requirement (from versions: {versions})"\n'
        'echo "ERROR: No matching distribution found for uvicorn==9.9.9"\n'
        "exit 1\n"
    )
    python.chmod(0o755)
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    output = Terminal()
    with pytest.raises(DemoError, match=told):
        throw_away_environment("9.9.9", tmp_path, make_console(output))
    assert "(venv and pip) ..." in output.getvalue()


@posix_only
def test_an_installation_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal something moves meanwhile."""
    fake_uv(tmp_path, monkeypatch, make="exec sleep 60", install="exit 0")
    monkeypatch.setattr(_throw_away, "SECONDS_TO_INSTALL", 0.3)
    monkeypatch.setattr(_throw_away, "_SECONDS_BETWEEN_SIGNS", 0.1)
    output = Terminal()
    with pytest.raises(DemoError, match="was not installed within 0 s: try again"):
        throw_away_environment("0.28.0", tmp_path, make_console(output))
    assert "Installing uvicorn 0.28.0 in a throw-away environment (uv) ..." in output.getvalue()


# The servers


@posix_only
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("echo one >&2; echo two >&2; exit 3", r"\(exit status 3\); its last line: two"),
        ("exec sleep 60", r"\(exit status -9\); its last line: nothing"),
    ],
)
def test_a_server_that_does_not_start(program: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_SECONDS_TO_START", 0.5)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    server = Server(str(python), "", tmp_path, is_wrapped=True)
    with contextlib.closing(server), pytest.raises(DemoError, match=told):
        server.wait_started()


def test_a_server_that_is_gone(tmp_path: Path) -> None:
    this = this_environment()
    with contextlib.closing(Server(this.python, this.import_path, tmp_path, is_wrapped=True)) as server:
        server.wait_started()
    with pytest.raises(DemoError, match="does not answer: ConnectionRefusedError"):
        server.exchanges("/events")
    with pytest.raises(DemoError, match="does not accept a request"):
        play(EVENTS, [server])


def test_the_servers_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    process = demo("demo", directory=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=SECONDS)
    limit = time.monotonic() + SECONDS
    for side in ("bare", "wrapped"):
        (log,) = tmp_path.glob(f"*/{side}.log")
        while "Finished server process" not in log.read_text():
            assert time.monotonic() < limit
            time.sleep(0.02)


class ServerInThread(Server):
    """The demo's server in a thread of this process, where it can be measured."""

    def __init__(self, directory: Path, *, is_wrapped: bool) -> None:
        log = directory / f"{is_wrapped}.log"
        log.touch()
        self._log = log.open()
        self._handler = logging.FileHandler(log)
        self._handler.setFormatter(logging.Formatter("%(levelname)s:     %(name)s: %(message)s"))
        here, there = socket.socketpair()
        self._commands = here

        def serve_and_close() -> None:
            with there, there.makefile("r") as commands, there.makefile("w") as answers:
                serve(is_wrapped, commands, answers)

        self._thread = threading.Thread(target=serve_and_close)
        self._thread.start()
        with here.makefile("r") as answers:
            self._read_facts(answers.readline())
        for name in ("", "uvicorn"):
            logging.getLogger(name).addHandler(self._handler)

    def close(self) -> None:
        self._commands.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        for name in ("", "uvicorn"):
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()
        self._log.close()


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """uvicorn configures loggers for the whole process."""
    names = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate, [*logger.handlers]) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.fixture(params=[False, True], ids=["bare", "wrapped"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, bool]]:
    logging.getLogger().setLevel(logging.INFO)  # serve leaves a configured root logger, such as pytest's, alone
    with contextlib.closing(ServerInThread(tmp_path, is_wrapped=request.param)) as running:
        yield running, request.param


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.path[1:])
def test_every_scene_against_a_server_of_this_process(scene: Scene, server: tuple[Server, bool]) -> None:
    running, is_wrapped = server
    (evidence,) = play(scene, [running])
    assert (faults(scene, evidence) == []) is is_wrapped


def ask(port: int, request: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        client.sendall(request.encode())
        return client.makefile("rb").read()


def test_clients_that_stay_get_their_answers(server: tuple[Server, bool]) -> None:
    port = server[0].port
    end = "Host: demo\r\nConnection: close\r\n"
    report = ask(port, f"GET /report HTTP/1.1\r\n{end}\r\n")
    assert report.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"server-timing: app;dur=" in report
    upload = ask(port, f"POST /upload HTTP/1.1\r\n{end}Content-Length: 3\r\n\r\nabc")
    assert upload.endswith(b'{"bytes":3}')


def test_the_feed_sends(server: tuple[Server, bool]) -> None:
    with socket.create_connection(("127.0.0.1", server[0].port), timeout=SECONDS) as client:
        client.sendall(FEED.request.format(target="/feed?").encode())
        messages = client.makefile("rb")
        while messages.readline() != b"\r\n":
            pass
        for _ in range(3):
            opcode, length = messages.read(2)
            assert opcode == 0x81  # a text
            assert messages.read(length).startswith(b'{"time":')


# The judgement

INFO = "INFO:     disconnect_mw: client disconnected: GET /events from 127.0.0.1:1, 7 messages muted\n"
GOOD = Evidence(
    exchanges=[
        {
            "target": f"/events?{way}",
            "notes": ["background task ran"],
            "payloads": [1.0, 2.0],
            "disconnected_at": 3.0,
            "is_running": False,
        }
        for way in ("FIN", "RST")
    ],
    left_at=2.5,
    log=2 * INFO,
)
GROUP = """\
INFO:     Started server process [1]
ERROR:    Exception in ASGI application
  + Exception Group Traceback (most recent call last):
  |   File "uvicorn/protocols/http/httptools_impl.py", line 1, in run_asgi
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    | uvicorn.protocols.utils.ClientDisconnected
    +------------------------------------
INFO:     connection closed
"""


def changed(**changes: Any) -> Evidence:
    """The good evidence, with something else in the first exchange."""
    first, second = GOOD.exchanges
    return dataclasses.replace(GOOD, exchanges=[{**first, **changes}, second])


def report_of(evidence: Evidence, output: io.StringIO) -> bool:
    report = Report(make_console(output))
    report.add(EVENTS, evidence, evidence)
    return report.end()


def test_good_evidence_has_no_faults() -> None:
    assert faults(EVENTS, GOOD) == []
    assert report_of(GOOD, io.StringIO())


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        (
            dataclasses.replace(GOOD, exchanges=[]),
            ["0 of 2 clients were served", "'not served', not 'stopped, background task ran'"],
        ),
        (dataclasses.replace(GOOD, log=GROUP + 2 * INFO), ["1 ERROR line and 2 tracebacks in the log"]),
        (dataclasses.replace(GOOD, log=INFO), ["1 INFO line for 2 clients that left"]),
        (dataclasses.replace(GOOD, log=3 * INFO), ["3 INFO lines for 2 clients that left"]),
        (changed(payloads=[2.0, 3.5, 4.0]), ["2 messages sent after the disconnect"]),
        (changed(payloads=[2.0, 3.5]), ["1 message sent after the disconnect"]),
        (changed(is_running=True), ["'still running', not 'stopped, background task ran'"]),
        (changed(notes=[]), ["'stopped, background task lost', not 'stopped, background task ran'"]),
    ],
)
def test_each_broken_promise_is_a_fault(evidence: Evidence, found: list[str]) -> None:
    assert faults(EVENTS, evidence) == found
    output = io.StringIO()
    assert not report_of(evidence, output)
    assert all(f"events: {fault}" in " ".join(output.getvalue().split()) for fault in found)


def test_where_the_server_never_says_so_all_counts_that_was_sent_after_the_client_left() -> None:
    assert changed(disconnected_at=None, payloads=[2.0, 2.6, 2.9, 3.5]).wasted_messages == 3


def test_the_first_error_of_an_exception_group_names_what_is_in_it() -> None:
    evidence = dataclasses.replace(GOOD, log=GROUP)
    assert evidence.first_error == [
        "ERROR:    Exception in ASGI application",
        "Exception Group Traceback (most recent call last):",
        "  ... 4 lines",
        "uvicorn.protocols.utils.ClientDisconnected",
    ]
    short = dataclasses.replace(GOOD, log="ERROR:    one\nValueError: two\nINFO:     three\n")
    assert short.first_error == ["ERROR:    one", "ValueError: two"]


def test_different_ends_are_not_shown_as_one() -> None:
    output = io.StringIO()
    report_of(changed(is_running=True), output)
    assert "still running / stopped, background" in " ".join(output.getvalue().split())


@pytest.mark.parametrize(
    ("environ", "is_terminal", "is_coloured"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    environ: dict[str, str], is_terminal: bool, is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    output = Terminal() if is_terminal else io.StringIO()
    report_of(dataclasses.replace(GOOD, log=GROUP), output)
    assert ("\033[31m" in output.getvalue()) is is_coloured


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_it_fits_into_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are the same in every width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    output = io.StringIO()
    report_of(GOOD, output)
    lines = output.getvalue().splitlines()
    narrowest = max(len(f"    {command}") for _, command in _NEXT)
    assert max(map(len, lines)) <= columns
    if columns >= narrowest:
        assert all(f"    {command}" in lines for _, command in _NEXT)
