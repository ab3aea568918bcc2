"""A deliberately bad app is found out in each of its six faults, and a good one in none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest

import disconnect_mw
from disconnect_mw.__main__ import main

from .. import IS_FULL
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not

APPS = Path(__file__).parent / "apps"
SCHEMA = json.loads((Path(disconnect_mw.__file__).parent / "_check" / "report.schema.json").read_text())

SERVERS = ["uvicorn", "hypercorn", "granian", "gunicorn", "daphne"] if IS_FULL else ["uvicorn"]

FAULTS = {
    "/endless/": "endless",
    "/swallow": "stubborn",
    "/task": "tasks",
    "/pool": "pool",
    "/noisy": "noise",
    "/upload": "half",
}

NOT_SEEN = {
    # It cancels the app: 3 s after the departure, and 10 s.
    "gunicorn": {"/endless/"},
    # It takes the whole upload before it calls the app, so a cut one never reaches the app.
    "daphne": {"/upload"},
}


def found(app: str, server: str, directory: Path) -> tuple[int, dict[str, Any]]:
    why = why_not(Setup(server, INSTALLED, worker="asgi" if server == "gunicorn" else ""))
    if why is not None:
        pytest.skip(f"NOT tested here: {server}: {why}")
    report = directory / "report.json"
    arguments = [argument for path in FAULTS for argument in ("--path", path)]
    status = main(
        [
            *("check", f"{app}:app", "--app-dir", str(APPS), "--server", server, "--quick", "--quiet"),
            *(*arguments, "--data", 1000 * "x", "--json", str(report)),
        ]
    )
    document = json.loads(report.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return status, {result["path"]: result for result in document["servers"][0]["routes"]}


@pytest.fixture(autouse=True)
def _uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "uploads"
    directory.mkdir()
    monkeypatch.setenv("UPLOADS", str(directory))


@pytest.mark.parametrize("server", SERVERS)
def test_each_of_six_faults_is_found(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, routes = found("bad", server, tmp_path)
    assert status == 1, capsys.readouterr().out
    codes = {path: {finding["code"] for finding in routes[path]["wrapped"]["findings"]} for path in FAULTS}
    missed = {path for path, code in FAULTS.items() if code not in codes[path]}
    assert missed == NOT_SEEN.get(server, set()), codes


@pytest.mark.parametrize("server", SERVERS)
def test_none_is_found_in_an_app_without_them(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, routes = found("good", server, tmp_path)
    assert (status, capsys.readouterr().out) == (0, "")
    assert {path: routes[path]["wrapped"]["findings"] for path in FAULTS} == {path: [] for path in FAULTS}
    assert all(any(not one["not_played"] for one in routes[path]["wrapped"]["departures"]) for path in FAULTS)
    assert [routes[path]["same_for_a_client_that_stays"] for path in FAULTS] == 6 * [True]


@pytest.mark.skipif(not IS_FULL, reason="installs from the package index")
def test_other_versions_are_checked_in_throw_away_environments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    versions = ("uvicorn==0.28.0", "hypercorn==0.16.0")
    status = main(
        [
            *("check", "good:app", "--app-dir", str(APPS), "--quick", "--path", "/noisy", "--json", str(report)),
            *(argument for version in versions for argument in ("--server", version)),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed
    servers = json.loads(report.read_text())["servers"]
    assert [f"{server['name']}=={server['version']}" for server in servers] == [*versions]
    assert [server["python"] for server in servers] == 2 * [".".join(map(str, sys.version_info[:3]))]
