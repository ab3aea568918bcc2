"""What is told of the newest releases, and what of it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import newest
from .newest import THE_FAST_TESTS, Findings, newer_than_pinned, told_by_pytest
from .servers.behaviour import Proof
from .servers.conformance import CRASHES, DIFFERS, HANGS, LIMIT, NOT_PLAYED, SAME, Column
from .servers.pins import pins
from .servers.setups import NEWEST, VERSIONS, Setup

GRANIAN = Setup("granian", NEWEST)


def test_only_what_is_not_the_pinned_version_is_newer() -> None:
    assert newer_than_pinned({"granian": "99.1", "uvloop": pins()["uvloop"]}) == {"granian": "99.1"}


@pytest.mark.parametrize("verdict", [DIFFERS, HANGS, CRASHES])
def test_a_scenario_under_the_middleware_that_comes_out_otherwise_breaks_a_promise(verdict: str) -> None:
    column = Column(GRANIAN, "99.1", cells={"one": SAME, "other": verdict}, stories={"other": "the story"})
    assert Findings(columns=[column]).broken == [f"granian 99.1 asyncio: other: {verdict}\nthe story"]


@pytest.mark.parametrize("verdict", [SAME, LIMIT, NOT_PLAYED])
def test_what_cannot_be_seen_breaks_none(verdict: str) -> None:
    column = Column(GRANIAN, "99.1", cells={"one": verdict}, stories={"one": "the story"}, troubles=["a trouble"])
    assert Findings(columns=[column]).broken == []


def test_the_summary_tells_what_is_newer_and_what_came_of_it() -> None:
    findings = Findings(
        newer={"granian": {"granian": "99.1"}, "uvicorn": {}, THE_FAST_TESTS: {"anyio": "99.2"}},
        columns=[Column(GRANIAN, "99.1", cells={"one": SAME, "two": SAME, "three": DIFFERS}, troubles=["a trouble"])],
        proofs=[Proof("granian-asyncio", "granian", records=["granian-2.8.7"], count=90, unrecorded="no record")],
        tests=["FAILED tests/test_one.py::test_it", "1 failed, 2 passed"],
        missing={"daphne": "it did not install"},
    )
    assert findings.summary().splitlines() == [
        "The newest releases against the pinned ones:",
        f"* granian: granian 99.1 (pinned: {pins()['granian']})",
        "    with the middleware, granian 99.1 asyncio: 2 the same, 1 differs",
        "        a trouble",
        "    bare: record granian-2.8.7 (granian-asyncio): 90 scripts, the same (0.0 s)",
        "    no record",
        "* uvicorn: nothing is newer, so nothing is played again",
        f"* the fast tests: anyio 99.2 (pinned: {pins()['anyio']})",
        "    FAILED tests/test_one.py::test_it",
        "    1 failed, 2 passed",
        "* daphne is NOT played: it did not install",
    ]


def test_of_pytest_the_failures_and_the_last_line_are_told() -> None:
    output = "....F\nE   assert False\nFAILED tests/test_one.py::test_it - assert False\n1 failed, 4 passed in 3 s\n"
    assert told_by_pytest(output) == output.splitlines()[-2:]


def test_a_release_that_does_not_install_is_told_and_fails_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = str(tmp_path / "no-such-python")
    assert newest.main(["--cache", str(tmp_path), "--python", python]) == 0
    told = capsys.readouterr().out
    assert told.count("is NOT played: ") == len(VERSIONS) + 1
    assert "0 scenarios broken" in told
