"""`disconnect-mw check`, the whole of it: real servers, an app of many behaviours, and what is printed and written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

import disconnect_mw
from disconnect_mw.__main__ import main

SUPPORT = Path(__file__).parent / "support"
SCHEMA = json.loads((Path(disconnect_mw.__file__).parent / "_check" / "report.schema.json").read_text())
SECONDS = 120.0  # no wait here is longer

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


class Checked:
    """What a run of the command has left."""

    def __init__(self, status: int, printed: str, errors: str, report: Any, page: str) -> None:
        self.status, self.printed, self.errors, self.page = status, printed, errors, page
        self.report = report
        self.results = {result["template"]: result for server in report["servers"] for result in server["routes"]}

    def codes(self, path: str, side: str = "wrapped") -> set[str]:
        return {finding["code"] for finding in self.results[path][side]["findings"]}


def check(capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str, app: str = "check_app:app") -> Checked:
    report, page = directory / "report.json", directory / "report.html"
    files = ("--json", str(report), "--html", str(page))
    status = main(["check", app, "--app-dir", str(SUPPORT), "--server", "uvicorn", *files, *arguments])
    captured = capsys.readouterr()
    found = json.loads(report.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert found["exit_status"] == status
    return Checked(status, captured.out, captured.err, found, page.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "uploads"
    directory.mkdir()
    monkeypatch.setenv("UPLOADS", str(directory))
    return directory


def paths(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--path", name)]


def test_what_misbehaves_is_found_and_the_rest_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = ("/endless", "/stubborn", "/blocks", "/dies", "/buggy", "/floods", "/leaks")
    good = ("/quick", "/slow", "/listens", "/random")
    skipped = ("/login", "/form", "/teapot", "/other", "/missing", "/moved", "/fails")
    sockets = ("--websocket", "/chat", "--say", "hi", "--websocket", "/refuses")
    uploads = ("--path", "/upload", "--data", 100 * "x", "--path", "/half", "--data", 100 * "x")
    found = check(capsys, tmp_path, "--quick", *paths(*good, *bad, *skipped), *uploads, *sockets)
    assert found.status == 1, found.printed
    codes = {path: found.codes(path) for path in (*bad, "/upload", "/half")}
    assert codes == {
        "/endless": {"endless"},
        "/stubborn": {"stubborn"},
        "/blocks": {"blocked"},
        "/dies": {"ended"},
        "/buggy": {"bug"},
        "/floods": {"flood"},
        "/leaks": {"tasks"},
        "/upload": {"half"},
        "/half": {"half"},
    }
    assert {path: found.codes(path) for path in (*good, "/chat")} == dict.fromkeys((*good, "/chat"), set())
    told = {path: found.results[path]["skipped"] for path in (*skipped, "/refuses")}
    assert all(told.values()), told
    assert "(404): look for a misspelling" in told["/missing"]
    assert "ValueError: for everyone" in told["/fails"]
    assert "redirects (307) to /quick" in told["/moved"]
    # The client that stays.
    assert found.results["/quick"]["same_for_a_client_that_stays"] is True
    assert found.results["/random"]["same_for_a_client_that_stays"] is None
    assert found.results["/chat"]["same_how"] == "the same 2 messages"
    # What is printed fits, and says what to do.
    assert max(map(len, found.printed.splitlines())) <= 80
    assert "\033" not in found.printed
    assert 'policy_for={"/endless": "cancel"}' in found.printed
    assert "check_app.py" in found.printed
    assert "With the middleware something misbehaves" in found.printed
    assert found.page.count("<svg") > 20 and "with it: The client leaves;" in found.page


def test_memory_is_measured_over_many_departures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = check(
        capsys, tmp_path, *paths("/hoards", "/hoards-anyway", "/slow", "/endless", "/missing"), "--patience", "1"
    )
    assert found.codes("/hoards") == {"memory"}, found.printed
    memory = found.results["/hoards"]["wrapped"]["memory"]
    assert 5_000 < memory["bytes_per_departure"] < 15_000
    assert "check_app.py:" in memory["place"]
    assert memory["grows_anyway"] is False
    assert found.results["/hoards-anyway"]["wrapped"]["memory"]["grows_anyway"] is True
    assert found.codes("/hoards-anyway") == set()
    assert abs(found.results["/slow"]["wrapped"]["memory"]["bytes_per_departure"]) < 1_000
    assert "do not end" in found.results["/endless"]["wrapped"]["memory_not_measured"]


def test_nothing_that_misbehaves_is_status_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = check(capsys, tmp_path, "--quick", "--path", "/slow", "--policy", "cancel", "--quiet")
    assert (found.status, found.printed) == (0, "")
    assert found.report["middleware"] == {"policy": "cancel"}
    (departure,) = found.results["/slow"]["wrapped"]["departures"]
    (bare,) = found.results["/slow"]["bare"]["departures"]
    # Cancelled, it comes to no answer; bare it sends one, in two messages.
    assert (departure["sends"], bare["sends"]) == (0, 2)


def test_an_app_that_asks_the_middleware_for_its_client_is_judged_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = check(capsys, tmp_path, "--quick", "--path", "/client", app="check_wrapped:app")
    assert found.status == 0, found.printed
    result = found.results["/client"]
    assert (result["skipped"], result["bare"]["departures"]) == (None, [])
    assert result["wrapped"]["departures"][0]["how"] == "returned"
    assert "without the middleware it cannot answer" in result["same_how"]


def test_an_upload_is_cut_though_no_body_is_known(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Some bytes are sent, unless that changes the answer."""
    arguments = ("--path", "/body", "--method", "POST", "--path", "/no-body", "--method", "POST")
    found = check(capsys, tmp_path, "--quick", *arguments)
    phases = {path: {one["phase"] for one in found.results[path]["bare"]["departures"]} for path in found.results}
    assert phases == {"/body": {"upload", "before response"}, "/no-body": {"before response"}}
    assert found.codes("/body", "bare") == {"traceback"}
    assert found.results["/no-body"]["bare"]["stays"][0]["status"] == 200


@pytest.mark.parametrize("app", ["check_mcp:app", "check_mcp:without_sessions"])
def test_events_and_mcp_are_recognised(app: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An MCP server by its answer: each client has a session of its own, and only tools that read are called."""
    found = check(capsys, tmp_path, "--quick", *paths("/mcp", "/events"), app=app)
    assert found.status == 0, found.printed
    results = {(result["template"], result["label"]): result for result in found.report["servers"][0]["routes"]}
    assert set(results) == {
        ("/mcp", "listen"),
        ("/mcp", "tools/list"),
        ("/mcp", "tools/call reads"),
        ("/events", "server-sent events"),
    }
    assert not any(result["skipped"] for result in results.values())
    phases = {
        label: {one["phase"] for one in result["wrapped"]["departures"]} for (_, label), result in results.items()
    }
    assert phases["listen"] == {"before response", "first bytes"}  # nothing happens in that stream
    assert phases["server-sent events"] == {"before response", "first bytes", "mid-stream"}
    assert phases["tools/call reads"] == {"upload", "before response"}
    notes = found.report["servers"][0]["notes"]
    assert "1 tool that may write is not called at /mcp: --unsafe calls them, and they do write" in notes
    assert any(note.startswith("tool odd of /mcp is not called: ") for note in notes)


def test_an_app_that_has_the_middleware_is_checked_as_it_is_and_bare(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = check(capsys, tmp_path, "--quick", "--path", "/slow", app="check_wrapped:app")
    assert found.status == 0, found.printed
    (departure,) = found.results["/slow"]["wrapped"]["departures"]
    (bare,) = found.results["/slow"]["bare"]["departures"]
    assert (departure["sends"], bare["sends"]) == (0, 2)
    assert "The app has the middleware already" in found.printed


@pytest.mark.parametrize(
    ("app", "arguments", "told"),
    [
        ("no_such:app", (), "there is no module 'no_such'"),
        ("check_app:nothing", (), "there is no 'nothing' in check_app: it has app"),
        ("check_app:fails_to_start", (), "its start-up fails: no database"),
        ("check_app:app", ("--max-orphans", "1", "--policy", "raise", "--websocket-policy", "raise"), "refuses these"),
        ("check_app:app", (), "no route was found: name them by --path and --websocket"),
        ("check_app:app", ("--path", "/missing"), "no client could leave any route"),
    ],
)
def test_what_cannot_be_checked_is_told_in_one_sentence(
    app: str, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = check(capsys, tmp_path, "--quick", *arguments, app=app)
    assert (found.status, found.printed) == (2, "")
    assert told in " ".join(found.errors.split())


@posix_only
def test_ctrl_c_ends_the_servers_and_prints_what_was_found(tmp_path: Path) -> None:
    import_path = os.pathsep.join([str(SUPPORT), *map(os.path.abspath, sys.path)])
    # A shell starts its background jobs with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "disconnect_mw", "check", "check_app:app", "--server", "uvicorn"),
                *("--patience", "100", *paths("/quick", "/endless")),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": import_path, "TMPDIR": str(tmp_path)},
        )
    finally:
        signal.signal(signal.SIGINT, before)
    journal = tmp_path / "uploads" / "departures"
    limit = time.monotonic() + SECONDS
    # Two clients that stay, on both sides, and one that leaves: by then the first ones have their answers.
    while not (journal.exists() and journal.read_text().count("/quick") > 4):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, "")
    assert "Interrupted: this is what was found so far" in printed
    assert "GET /quick" in printed
    pids = [int(line.split()[0]) for line in journal.read_text().splitlines()]
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
