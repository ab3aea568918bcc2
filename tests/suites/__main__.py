"""Runs other projects' released tests, bare and with every app wrapped: `python -m tests.suites starlette quart`.

Each suite comes from its source distribution, or from a checkout of a release that `--source` names, where that has no
tests. It runs in an environment of its own, twice; each test that comes out otherwise is named. By hand, not in CI:
these suites take minutes, and some need the network.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..real.servers.environments import Environments

TOP = Path(__file__).parents[2]

SECONDS_FOR_A_SUITE = 1800
SECONDS_FOR_A_TEST = 30


@dataclass(frozen=True)
class Suite:
    version: str
    needs: tuple[str, ...]  # beside the project itself and pytest
    options: tuple[str, ...] = ("tests",)  # for pytest


SUITES: Mapping[str, Suite] = {
    "starlette": Suite(
        "1.10.0",
        ("httpx", "httpx2", "itsdangerous", "jinja2", "opentelemetry-sdk", "python-multipart", "pyyaml", "trio"),
    ),
    "fastapi": Suite(
        "0.165.0",
        (
            *("httpx", "dirty-equals", "inline-snapshot", "python-multipart", "pyyaml", "orjson", "ujson", "flask"),
            *("sqlmodel", "pyjwt", "pwdlib[argon2]", "a2wsgi", "email-validator", "jinja2", "pydantic-settings"),
        ),
    ),
    "sse-starlette": Suite(
        "3.7.0",
        (
            "httpx",
            "httpx2",
            "asgi-lifespan",
            "uvicorn",
            "fastapi",
            "pytest-asyncio",
            "psutil",
            "portend",
            "tenacity",
            "requests",
        ),
        ("tests", "--ignore=tests/integration", "--ignore=tests/experimentation"),
    ),
    "quart": Suite("0.23.1", ("hypothesis", "pytest-asyncio", "python-dotenv")),
    "litestar": Suite("2.25.0", ("litestar[full]", "pytest-asyncio", "pytest-mock", "httpx", "trio"), ("tests/unit",)),
    "channels": Suite("4.3.2", ("daphne", "django", "pytest-asyncio", "pytest-django", "selenium", "async-timeout")),
    "django": Suite("6.1.3", (), ("tests/asgi",)),
    "hypercorn": Suite(
        "0.18.0", ("hypercorn[h3,trio,uvloop]", "httpx[http2]", "pytest-asyncio", "pytest-trio", "mock"), ("tests",)
    ),
    "uvicorn": Suite(
        "0.54.0",
        (
            *("uvicorn[standard]", "a2wsgi", "cryptography", "httpx", "pytest-mock", "pytest-xdist", "trustme"),
            *("trio", "typing-extensions", "wsproto", "websockets"),
        ),
    ),
    "mcp": Suite(
        "2.3.0", ("mcp[cli,ws]", "pytest-asyncio", "pytest-examples", "inline-snapshot", "dirty-equals", "trio")
    ),
}
"""The versions of `setup.cfg`, and what their tests need besides."""

WHY: Mapping[str, Mapping[str, str]] = {
    "hypercorn": {
        **dict.fromkeys(
            [f"tests/{loop}/test_task_group.py::test_spawn_app" for loop in ("asyncio", "trio")],
            "its app sends what it receives: after the disconnect that is muted, and `receive` answers that again",
        ),
        "tests/asyncio/test_tcp_server.py::test_complets_on_half_close": (
            "it asserts the length of the scope written as JSON, in which the middleware has a key that is no JSON"
        ),
    },
}
"""By suite and test: why it cannot pass wrapped, since it asserts what is promised otherwise. It is left out there."""


def unpacked(name: str, version: str, home: Path) -> Path:
    """The source distribution. Raises `OSError` where there is none."""
    archives = home / "archives"
    found = _archive(archives, name, version)
    if found is None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
        ended = subprocess.run(
            [*command, "-d", str(archives), f"{name}=={version}"], capture_output=True, text=True, timeout=600
        )
        found = _archive(archives, name, version)
        if found is None:
            raise OSError(f"{name} {version} could not be downloaded: {ended.stderr.strip()[-300:]}")
    with tarfile.open(found) as archive:
        archive.extractall(home, filter="data")
    return home / found.name.removesuffix(".tar.gz")


def _archive(directory: Path, name: str, version: str) -> Path | None:
    stem = f"{re.sub('[-_.]+', '_', name)}-{version}.tar.gz"
    return next(
        (path for path in directory.glob("*.tar.gz") if path.name.replace("-", "_") == stem.replace("-", "_")), None
    )


def run(name: str, source: Path, python: str, is_wrapped: bool) -> tuple[dict[str, str], str]:
    """The outcome of each test, and the last lines of what pytest has told."""
    report = source / f"report-{'wrapped' if is_wrapped else 'bare'}.xml"
    report.unlink(missing_ok=True)
    plugin = source / "wrapping_of_suites.py"
    shutil.copyfile(Path(__file__).with_name("wrapping.py"), plugin)
    ended = subprocess.run(
        [
            *(
                python,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "wrapping_of_suites",
                f"--junitxml={report}",
            ),
            *("-W", "ignore::pytest.PytestAssertRewriteWarning", *SUITES[name].options),
        ],
        cwd=source,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(source), str(source / "src"))),
            "WRAPPED_SUITE": name if is_wrapped else "",
            "LEFT_OUT": " ".join(WHY.get(name, {}) if is_wrapped else ()),
        },
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_A_SUITE,
    )
    told = "\n".join(ended.stdout.splitlines()[-3:])
    if not report.exists():
        raise OSError(f"{name}: no test was run:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    if "during collection" in ended.stdout:
        raise OSError(f"{name}: its tests cannot be collected:\n{ended.stdout[-3000:]}")
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcomes[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
    if not outcomes:
        raise OSError(f"{name}: there are no tests in {source.name}: name a checkout, --source {name}=PATH")
    return outcomes, told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, help="the directory of sources and environments (default: a temporary one)"
    )
    parser.add_argument("--python", default=sys.executable, help="version or path of the interpreter (default: this)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH", help="a checkout of a release")
    parser.add_argument("suites", nargs="+", choices=SUITES, metavar="SUITE", help=f"of {', '.join(SUITES)}")
    options = parser.parse_args(arguments)
    sources = dict(one.split("=", 1) for one in options.source)
    unexplained = 0
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary:
        home = (options.cache or Path(temporary)).absolute()
        environments = Environments(home / "environments", options.python)
        for name in options.suites:
            suite = SUITES[name]
            source = Path(sources[name]) if name in sources else unpacked(name, suite.version, home)
            project = str(source) if name in sources else f"{name}=={suite.version}"
            wanted = [str(TOP), project, "pytest", "pytest-cov", "pytest-timeout", "anyio", *suite.needs]
            python = environments.make(f"suite-{name}", wanted)
            bare, told_bare = run(name, source, python, is_wrapped=False)
            wrapped, told = run(name, source, python, is_wrapped=True)
            print(f"{name} {suite.version}: bare {_counts(bare)}; wrapped {_counts(wrapped)}")
            print(f"    {told_bare.splitlines()[-1]}\n    {told.splitlines()[-2:]}")
            for test, why in WHY.get(name, {}).items():
                print(f"    {test}: left out: {why}")
            left_out = {_name_in_report(test) for test in WHY.get(name, {})}
            for test in sorted((bare.keys() | wrapped.keys()) - left_out):
                before, after = bare.get(test, "missing"), wrapped.get(test, "missing")
                if before != after:
                    unexplained += before == "passed"
                    print(f"    {test}: {before} bare, {after} wrapped: NOT EXPLAINED")
    return 1 if unexplained else 0


def _name_in_report(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{path.removesuffix('.py').replace('/', '.')}::{name}"


def _counts(outcomes: Mapping[str, str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(outcomes.values()).items()))


if __name__ == "__main__":
    sys.exit(main())
