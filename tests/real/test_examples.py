"""The examples do what they say: each command of their docstrings is run, and each line below it appears."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import IS_FULL
from .observe.serving import PATIENCE, Process

EXAMPLES = Path(__file__).parents[2] / "examples"
INDEX = (EXAMPLES / "README.rst").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None, reason="NOT tested here: the commands of the examples: there is no curl"
)


@dataclass
class Step:
    """A command of a docstring, and the lines that are said to appear then."""

    command: str
    lines: list[str] = field(default_factory=list)

    @property
    def leaves(self) -> bool:
        """Whether it is a client that leaves in the middle."""
        return "--max-time" in self.command


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


def steps(path: Path) -> list[Step]:
    """The first one starts the server. Commands are indented by 4, what appears by 8."""
    found: list[Step] = []
    for indent, text in re.findall(r"^( {4}| {8})(\S.*)$", docstring(path), re.MULTILINE):
        if len(indent) == 4:
            found.append(Step(text))
        else:
            found[-1].lines.append(text)
    return found


RUN = [path for path in sorted(EXAMPLES.glob("*.py")) if "curl " in docstring(path) or "python -c" in docstring(path)]


def pattern(line: str) -> str:
    """Of a line in which numbers differ from run to run, and dots stand for what does."""
    return ".*".join(re.sub(r"\d+", r"\\d+", re.escape(part)) for part in line.split("..."))


@contextlib.contextmanager
def client(command: str) -> Iterator[subprocess.Popen[str]]:
    """The command of a client, which leaves as it does when its time is up: its connection is closed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PATH": path, "NO_PROXY": "*"},
        start_new_session=True,
    ) as running:
        try:
            yield running
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGTERM)


def play(step: Step, server: Process) -> None:
    """Run the command until its lines have appeared: the first tells that the client may leave.

    For that the test waits, and not for the seconds of the command, which a busy machine needs to begin.
    """
    command = step.command.replace(":8000", f":{server.port}")
    before = {line: len(re.findall(pattern(line), server.output)) for line in step.lines}
    if step.leaves:
        with client(re.sub(r"--max-time \d+ ", "", command)):
            server.until(pattern(step.lines[0]), before[step.lines[0]] + 1)
        for line in step.lines[1:]:
            server.until(pattern(line), before[line] + 1)
        return
    deadline = time.monotonic() + PATIENCE
    while True:  # a metric, say, is counted a little later
        with client(command) as running:
            answer = running.communicate(timeout=PATIENCE)[0]
        missing = [line for line in step.lines if not re.search(pattern(line), answer + server.output)]
        if not missing:
            return
        assert time.monotonic() < deadline, f"{command}: no {missing} in:\n{answer}\nnor in:\n{server.output}"
        time.sleep(0.1)


DRAWN = ("agent_run", "llm_stream", "upload_to_disk", "websocket_feed")
"""Played where not all of them are."""

PLAYED = [path for path in RUN if IS_FULL or path.stem in DRAWN]


@pytest.mark.parametrize("example", PLAYED, ids=lambda path: path.stem)
def test_an_example_does_what_it_says(example: Path, tmp_path: Path) -> None:
    home = tmp_path / "examples"  # where it may leave files
    shutil.copytree(EXAMPLES, home, ignore=shutil.ignore_patterns("__pycache__"))
    start, *others = steps(example)
    assert any(step.leaves or "python -c" in step.command for step in others), "none leaves"
    with Process(start.command, home, PYTHONUNBUFFERED="1", NO_PROXY="*", TMPDIR=str(tmp_path)) as server:
        server.connect().close()
        for step in others:
            play(step, server)
        assert "Traceback" not in server.output, server.output
    assert not list(home.rglob(".part-*"))


def test_the_index_names_each_example_in_its_own_words() -> None:
    rows = dict(re.findall(r"^   \* - ``(\S+)``\n     - (.*)$", INDEX, re.MULTILINE))
    assert {example.name for example in RUN} <= {*rows}
    for example in RUN:
        assert rows[example.name] == docstring(example).partition("\n")[0]
    there = {path.name for path in EXAMPLES.iterdir() if path.name not in ("README.rst", "__pycache__")}
    assert there == {name.rstrip("/") for name in rows}
