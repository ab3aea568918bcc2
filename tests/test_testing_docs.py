"""What docs/testing.rst shows, run: each block is a file, and the tests among them pass or fail as it says."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import get_args

import pytest

from disconnect_mw.testing import FaultKind, servers

from .support.plugin import start

pytest_plugins = ["pytester"]

DOCS = (Path(__file__).parent.parent / "docs" / "testing.rst").read_text(encoding="utf-8")
_BLOCK = r"\.\. code-block:: {}\n\n((?:    .*\n|\n)+)"
FILES = {
    found[1]: textwrap.dedent(found[2])
    for found in re.finditer(r"^\.\. file: (\S+)\n" + _BLOCK.format("python"), DOCS, re.MULTILINE)
}
OUTPUTS = {
    found[1]: textwrap.dedent(found[2])
    for found in re.finditer(r"^\.\. output of (\S+)\n" + _BLOCK.format("text"), DOCS, re.MULTILINE)
}


def test_each_block_is_a_file() -> None:
    assert len(FILES) == DOCS.count(".. code-block:: python")
    assert len(OUTPUTS) == DOCS.count(".. code-block:: text")


@pytest.fixture
def files(pytester: pytest.Pytester) -> pytest.Pytester:
    for name, text in FILES.items():
        (pytester.path / name).write_text(text, encoding="utf-8")
    return pytester


@pytest.mark.parametrize(
    ("name", "passed"),
    [
        ("test_report.py", len(servers.ALL)),
        ("test_clients.py", 1),
        ("test_servers.py", 2),
        ("test_async.py", 3),
        ("test_options.py", 2),
    ],
)
def test_the_tests_pass(files: pytest.Pytester, name: str, passed: int) -> None:
    start(files, "-p", "anyio.pytest_plugin", name).assert_outcomes(passed=passed)


def test_without_the_middleware_the_first_test_fails_where_send_raises(files: pytest.Pytester) -> None:
    bare = FILES["myapp.py"].replace("app.add_middleware(DisconnectMiddleware)\n", "")
    (files.path / "myapp.py").write_text(bare, encoding="utf-8")
    lines = start(files, "test_report.py", "-k", "uvicorn-0.28.0 or uvicorn-0.54.0]").stdout.lines
    failed = [line.partition(" - ")[0] for line in lines if line.startswith("FAILED")]
    assert failed == [f"FAILED test_report.py::test_a_reader_leaves[uvicorn-0.28.0{more}]" for more in ("", "-wsproto")]


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_failures_read_as_shown(files: pytest.Pytester, name: str) -> None:
    """But for seconds, counts, rulers and directories."""
    chosen = ("-k", "spec-silent or uvicorn-0.13.4]") if name == "test_hang.py" else ()
    printed = [anonymous(line) for line in start(files, name, *chosen).stdout.lines]
    for line in map(anonymous, OUTPUTS[name].strip().splitlines()):
        assert any(line in shown for shown in printed), (line, printed)


def anonymous(line: str) -> str:
    line = re.sub(r'"\S*/(\w+\.py)"', r'"\1"', line.strip("_-= "))
    line = re.sub(r"at /\S+, in \w+, of which|, of which", ", of which", line)
    return re.sub(r"\d+(\.\d+)? (s\b|messages|departures|more)|x \d+|await asyncio.sleep.*|await send.*|:\d+", "", line)


def test_what_is_named_is_what_there_is() -> None:
    assert re.findall(r"^``([a-z ]+)``  +[a-z]", DOCS.partition("This shop")[2], re.MULTILINE) == [*get_args(FaultKind)]
    assert f"{len(servers.ALL)} passed" in DOCS
