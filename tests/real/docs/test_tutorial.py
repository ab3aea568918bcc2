"""The tutorial, from its first line to its last: each file is written, each command run, each log compared."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.pages import TOP, read
from .. import IS_FULL
from ..observe.serving import PATIENCE, Process

PAGE = read("tutorial")

STEPS = [
    (step[1], textwrap.dedent(step[2]).strip("\n"))
    for step in re.finditer(r"^\.\. (.+)\n\.\. code-block:: \w+\n\n((?:    .*\n|\n)+?)(?=^\S|\Z)", PAGE, re.MULTILINE)
]
"""What is to be done with each block, and the block."""

pytestmark = [
    pytest.mark.skipif(not IS_FULL, reason="takes half a minute: TESTS_FULL=1"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="NOT tested here: there is no curl"),
]


class Reader:
    """Does what the page says, in a folder of its own."""

    def __init__(self, home: Path, stack: contextlib.ExitStack) -> None:
        self.home = home
        self.app = home / "myapp.py"
        self.server: Process | None = None
        self.printed = ""
        self._stack = stack
        self._servers = contextlib.ExitStack()
        self._seen = 0  # lines of the server's log that were compared
        stack.callback(lambda: self._servers.close())

    def do(self, what: str, block: str) -> None:
        if what == "set up":
            self.set_up(block)
        elif what.endswith(".py") and " " not in what:
            (self.home / what).write_text(block + "\n")
        elif what.startswith("add to myapp.py below "):
            line = what.removeprefix("add to myapp.py below ")
            self.replace(line, f"{line}\n\n{block}")
        elif what == "replace in myapp.py the handler of the order":
            begin = self.app.read_text().index('@app.post("/order")')
            self.app.write_text(self.app.read_text()[:begin] + block + "\n")
        elif what.startswith("replace in myapp.py "):
            self.replace(what.removeprefix("replace in myapp.py "), block)
        elif what == "serve":
            self.serve(block)
        elif what == "leave":
            self.run(block)
        elif what == "run":
            self.run(block)
        elif what == "the log":
            self.compare(block)
        elif what == "it prints":
            assert block in self.printed
        else:
            raise AssertionError(f"the page has a block that is not understood: {what}")

    def replace(self, old: str, new: str) -> None:
        text = self.app.read_text()
        assert text.count(old) == 1
        self.app.write_text(text.replace(old, new))

    def set_up(self, block: str) -> None:
        """In full, in a folder of its own, with this checkout in place of what is on the index."""
        names = re.findall(r"[\w\-\[\]]+", block.splitlines()[1].removeprefix("pip install"))
        assert names == ["disconnect-mw", "fastapi", "uvicorn[standard]", "pytest"]
        if IS_FULL:
            shell = block.replace("disconnect-mw", f"-e {TOP}").replace("python3 ", f"{sys.executable} ")
            self.run(f"set -e\n{shell}\npython -c 'import disconnect_mw, fastapi, uvicorn, pytest'")

    def serve(self, command: str) -> None:
        self._servers.close()
        *variables, module, app = command.split()
        assert module == "uvicorn"
        settings = dict(one.split("=") for one in variables)
        self.server = self._servers.enter_context(
            Process(f"uvicorn --port {{port}} {app}", self.home, PYTHONUNBUFFERED="1", **settings)
        )
        self._seen = 0
        self.server.connect().close()

    def run(self, commands: str) -> None:
        port = "8000" if self.server is None else str(self.server.port)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        ended = subprocess.run(
            ["bash", "-c", commands.replace("127.0.0.1:8000", f"127.0.0.1:{port}")],
            cwd=self.home,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
        )
        self.printed = ended.stdout + ended.stderr
        if "curl" in commands:
            assert "curl: (28) Operation timed out" in self.printed
        else:
            assert ended.returncode == 0, self.printed

    def compare(self, block: str) -> None:
        """Each line of `block` comes in the server's log, in this order, and nothing else that is not `...`."""
        assert self.server is not None
        wanted = [line.strip() for line in block.splitlines()]
        self.server.until(pattern(wanted[-1]))
        lines = [line.strip() for line in self.server.output.splitlines()[self._seen :]]
        lines = [line for line in lines if not re.match(r"INFO: +(?! |client)", line)]
        self._seen = len(self.server.output.splitlines())
        place = 0
        for number, line in enumerate(wanted):
            if line == "...":
                continue
            rest = lines[place:]
            found = next((index for index, one in enumerate(rest) if re.search(pattern(line), one)), None)
            assert found is not None, f"no {line!r} in\n" + "\n".join(rest)
            assert found == 0 or wanted[number - 1] == "...", "\n".join(rest[: found + 1])
            place += found + 1
        assert place == len(lines), "\n".join(lines[place:])


def pattern(line: str) -> str:
    """A line of the log, whatever the port, the seconds and the spaces."""
    text = re.escape(line)
    text = re.sub(r"127\\\.0\\\.0\\\.1:\d+", r"127\\.0\\.0\\.1:\\d+", text)
    text = re.sub(r"\d+\\\.\d\d\d\\ s", r"\\d+\\.\\d\\d\\d\\ s", text)
    return "^" + re.sub(r"(\\ )+", " +", text) + "$"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with contextlib.ExitStack() as stack:
        yield Reader(tmp_path, stack)


def test_the_tutorial_is_as_it_says(reader: Reader) -> None:
    assert len(STEPS) == len(re.findall(r"^\.\. code-block::", PAGE, re.MULTILINE))
    quiet = 0
    for number, (what, block) in enumerate(STEPS):
        reader.do(what, block)
        is_compared = any(later == "the log" for later, _ in STEPS[number + 1 : number + 2])
        if what == "leave" and not is_compared:
            quiet += 1
            stays_quiet(reader)
    assert quiet == 1, "the log stays quiet in one place"


def stays_quiet(reader: Reader) -> None:
    """The server has noticed that its client left, and logs nothing of it: it answers the next request."""
    assert reader.server is not None
    reader.server.get("/openapi.json")
    reader.server.stop()
    assert "Traceback" not in reader.server.output and "ERROR" not in reader.server.output
    assert "client disconnected" not in reader.server.output
