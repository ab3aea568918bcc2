"""Runs other projects' released tests, bare and with every app wrapped: `python -m tests.suites starlette quart`.

Each suite comes from its source distribution, or from a tag of its repository where that has no tests, or from a
checkout of a release that `--source` names. It runs in an environment of its own, twice; each test that comes out
otherwise is named. What has come out last is kept in `results.json`, which `--write` brings up to date. By hand, not in
CI: these suites take minutes, and need the network.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..real.servers.environments import Environments, installed_versions

TOP = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.json")

SECONDS_FOR_A_SUITE = 3600
SECONDS_FOR_A_TEST = 120

POLICIES = ("mute", "cancel")


@dataclass(frozen=True)
class Suite:
    version: str
    needs: tuple[str, ...]  # beside the project itself and pytest
    paths: tuple[str, ...] = ("tests",)
    options: tuple[str, ...] = ()  # for pytest
    repository: str = ""  # whose tag has the tests, where the source distribution has none
    environment: tuple[tuple[str, str], ...] = ()


SUITES: Mapping[str, Suite] = {
    "starlette": Suite(
        "1.10.0",
        ("httpx", "httpx2", "itsdangerous", "jinja2", "opentelemetry-sdk", "python-multipart", "pyyaml", "trio"),
    ),
    "fastapi": Suite(
        "0.165.0",
        (
            *("fastapi[all]", "dirty-equals", "inline-snapshot", "flask", "sqlmodel", "pyjwt", "pwdlib[argon2]"),
            *("a2wsgi", "strawberry-graphql", "sentry-sdk", "logfire", "opentelemetry-instrumentation-fastapi"),
            *("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http", "httpx", "httpx2", "pyyaml", "trio"),
            *("python-slugify", "pytest-codspeed", "pytest-xdist", "orjson", "ujson", "mypy", "ty", "ruff"),
        ),
    ),
    "sse-starlette": Suite(
        "3.7.0",
        (
            *("httpx", "httpx2", "asgi-lifespan", "uvicorn", "fastapi", "pytest-asyncio", "psutil", "portend"),
            *("tenacity", "requests"),
        ),
        options=("--ignore=tests/integration", "--ignore=tests/experimentation"),
        repository="https://github.com/sysid/sse-starlette",
    ),
    "quart": Suite(
        "0.23.1",
        ("hypothesis", "pytest-asyncio", "python-dotenv"),
        repository="https://github.com/pallets/quart",
    ),
    "litestar": Suite(
        "2.25.0",
        (
            *("litestar[full]", "aiosqlite", "asyncpg", "beanie", "beautifulsoup4", "daphne", "fsspec", "greenlet"),
            *("httpx-sse", "hypercorn", "hypothesis", "opentelemetry-sdk", "psutil", "psycopg[pool]", "sqlalchemy<2.1"),
            *(
                "psycopg2-binary",
                "python-dotenv",
                "starlette",
                "trio",
                "pytest==8.3.4",
                "pytest-asyncio",
                "pytest-mock",
            ),
            *("pytest-lazy-fixtures", "pytest-rerunfailures", "pytest-xdist", "time-machine<3"),
        ),
        # What is about requests and responses, but for what needs containers.
        tuple(f"tests/unit/test_{part}" for part in ("asgi", "connection", "middleware", "response", "testing")),
        ("-p", "no:rerunfailures", "--tb=native", "-k", "not (redis or valkey or psycopg or postgres)"),
        repository="https://github.com/litestar-org/litestar",
    ),
    "channels": Suite(
        "4.3.2",
        ("channels[daphne]", "pytest-asyncio", "pytest-django", "selenium", "async-timeout"),
        repository="https://github.com/django/channels",
    ),
    "django": Suite("6.1.3", (), ("tests/asgi/tests.py",), environment=(("DJANGO_SETTINGS_MODULE", "test_sqlite"),)),
    "hypercorn": Suite(
        "0.18.0", ("hypercorn[h3,trio,uvloop]", "httpx[http2]", "pytest-asyncio", "pytest-trio", "mock")
    ),
    "uvicorn": Suite(
        "0.54.0",
        (
            *("uvicorn[standard]", "a2wsgi", "cryptography", "httpx2", "pytest-codspeed", "pytest-mock"),
            *("pytest-xdist", "trustme", "wsproto", "zttp"),
        ),
        options=("-n0", "--ignore=tests/supervisors"),  # these are of processes, and call no app here
    ),
    "mcp": Suite(
        "2.3.0",
        (
            *("mcp[cli]", "pydantic-settings", "trio", "pytest-flakefinder", "pytest-xdist", "pytest-examples"),
            *("inline-snapshot", "dirty-equals", "pillow", "logfire", "opentelemetry-sdk", "blockbuster", "ruff"),
        ),
        options=("--ignore=tests/docs", "--ignore=tests/docs_src", "--ignore=tests/examples", "-o", "log_cli=false"),
    ),
}
"""The versions of `setup.cfg`, and what their tests need besides."""

_COMES_OUT = (
    "it asserts that Starlette's `WebSocketDisconnect` comes out of the app whose client has left: it ends at the edge"
)

WHY: Mapping[str, Mapping[str, str]] = {
    "fastapi": {
        **dict.fromkeys(
            [f"tests/test_telemetry/test_websockets.py::test_client_disconnect[{code}]" for code in (1000, 1001, 1006)],
            _COMES_OUT,
        ),
        "tests/test_tutorial/test_websockets/test_tutorial001.py::test_websocket": _COMES_OUT,
        **dict.fromkeys(
            [
                f"tests/test_tutorial/test_websockets/test_tutorial002.py::test_websocket_with_{what}[{module}]"
                for what in ("cookie", "header", "header_and_query")
                for module in ("tutorial002", "tutorial002_non_an")
            ],
            _COMES_OUT,
        ),
    },
    "hypercorn": {
        **dict.fromkeys(
            [f"tests/{loop}/test_task_group.py::test_spawn_app" for loop in ("asyncio", "trio")],
            "its app sends what it receives: after the disconnect that is muted, and `receive` answers that again",
        ),
        "tests/asyncio/test_tcp_server.py::test_complets_on_half_close": (
            "it asserts the length of the scope written as JSON, in which the middleware has a key that is no JSON"
        ),
    },
    "uvicorn": dict.fromkeys(
        [f"tests/test_config.py::test_{name}" for name in ("app_factory", "proxy_headers", "wsgi_app")],
        "it asserts which object `Config.loaded_app` is, in whose place this script puts the middleware",
    ),
}
"""By suite and test: why it cannot pass wrapped, since it asserts what is promised otherwise. It is left out there."""


@dataclass(frozen=True)
class Run:
    outcomes: Mapping[str, str]  # by test
    calls: int  # that went through the middleware

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.outcomes.values()).items()))

    def amended(self, again: Run) -> Run:
        """The run, with the outcomes of tests that were run once more."""
        return Run({**self.outcomes, **again.outcomes}, self.calls)


def unpacked(name: str, suite: Suite, home: Path, environments: Environments) -> Path:
    """The source of the release, with its tests. Raises `OSError` where it cannot be had."""
    if suite.repository:
        checkout = home / f"{name}-{suite.version}"
        if not checkout.exists():
            for tag in (suite.version, f"v{suite.version}"):
                command = ["git", "clone", "-q", "--depth", "1", "--branch", tag, suite.repository, str(checkout)]
                ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
                if not ended.returncode:
                    break
            else:
                raise OSError(
                    f"{suite.repository} could not be cloned: {ended.stderr.strip()[-300:]}\n"
                    f"Name a checkout of a release: --source {name}=PATH"
                )
        return checkout
    archives = home / "archives"
    found = _archive(archives, name, suite.version)
    if found is None:
        python = environments.make("pip", ["pip"])
        command = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(archives)]
        ended = subprocess.run([*command, f"{name}=={suite.version}"], capture_output=True, text=True, timeout=600)
        found = _archive(archives, name, suite.version)
        if found is None:
            raise OSError(f"{name} {suite.version} could not be downloaded: {ended.stderr.strip()[-300:]}")
    with tarfile.open(found) as archive:
        archive.extractall(home, filter="data")
    return home / found.name.removesuffix(".tar.gz")


def _archive(directory: Path, name: str, version: str) -> Path | None:
    stem = f"{re.sub('[-_.]+', '_', name)}-{version}.tar.gz"
    return next(
        (path for path in directory.glob("*.tar.gz") if path.name.replace("-", "_") == stem.replace("-", "_")), None
    )


def run(name: str, source: Path, python: str, home: Path, policy: str | None, only: Iterable[str] = ()) -> Run:
    """Run the suite under the policy, or bare; `only` some of its tests. Raises `OSError` where they cannot be run."""
    suite = SUITES[name]
    plugins = home / "plugins"
    shutil.copytree(TOP / "disconnect_mw", plugins / "disconnect_mw", dirs_exist_ok=True)
    shutil.copyfile(Path(__file__).with_name("wrapping.py"), plugins / "wrapping_of_suites.py")
    paths = sorted({test.partition("::")[0] for test in only}) or suite.paths
    title = f"{name}-{policy or 'bare'}{'-again' if only else ''}"
    report = home / f"{title}.json"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "wrapping_of_suites"]
    options = ["--timeout", str(SECONDS_FOR_A_TEST), "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    ended = subprocess.run(
        [*command, *options, *suite.options, *paths],
        cwd=source,
        env={
            **os.environ,
            **dict(suite.environment),
            "PYTHONPATH": os.pathsep.join((str(source), str(source / "src"), str(plugins))),
            "OUTCOMES": str(report),
            "WRAPPED_SUITE": name if policy else "",
            "LEFT_OUT": "\n".join(WHY.get(name, {}) if policy else ()),
            "ONLY": "\n".join(only),
            "DISCONNECT_MW_POLICY": "" if policy in (None, "mute") else policy,
            "DISCONNECT_MW_WEBSOCKET_POLICY": "" if policy in (None, "mute") else policy,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS_FOR_A_SUITE,
    )
    (home / f"{title}.log").write_text(ended.stdout + ended.stderr)
    if not report.exists() or "during collection" in ended.stdout:
        raise OSError(f"{name}: its tests cannot be run:\n{ended.stdout[-3000:]}{ended.stderr[-2000:]}")
    told = json.loads(report.read_text())
    if not told["outcomes"]:
        raise OSError(f"{name}: there are no tests in {source.name}: name a checkout, --source {name}=PATH")
    if policy and not told["calls"] and not only:
        raise OSError(f"{name}: no call went through the middleware")
    return Run(told["outcomes"], told["calls"])


def compare(name: str, policy: str, runs: Callable[..., Run]) -> dict[str, Any]:
    """What is kept of a suite under a policy. A test that comes out otherwise is run once more: it may be by chance."""
    bare, wrapped = runs(None), runs(policy)
    left_out = WHY.get(name, {})
    otherwise = _differing(bare, wrapped, left_out)
    if otherwise:
        bare, wrapped = bare.amended(runs(None, otherwise)), wrapped.amended(runs(policy, otherwise))
        again = _differing(bare, wrapped, left_out)
        otherwise = {test: outcomes for test, outcomes in otherwise.items() if again.get(test) == outcomes}
    return {
        "policy": policy,
        "bare": bare.counts,
        "wrapped": wrapped.counts,
        "calls through the middleware": wrapped.calls,
        "left out": dict(left_out),
        "otherwise, twice": otherwise,
    }


def _differing(bare: Run, wrapped: Run, left_out: Iterable[str]) -> dict[str, list[str]]:
    return {
        test: [bare.outcomes.get(test, "missing"), wrapped.outcomes.get(test, "missing")]
        for test in sorted((bare.outcomes.keys() | wrapped.outcomes.keys()) - set(left_out))
        if bare.outcomes.get(test) != wrapped.outcomes.get(test)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, help="the directory of sources and environments (default: a temporary one)"
    )
    parser.add_argument("--python", default=sys.executable, help="version or path of the interpreter (default: this)")
    parser.add_argument("--policy", default="mute", choices=POLICIES, help="of the middleware (default: mute)")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH", help="a checkout of a release")
    parser.add_argument("--write", action="store_true", help=f"write what comes out into {RESULTS.name}")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)} (default: all)")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.suites if name not in SUITES]
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r} here: choose from {', '.join(SUITES)}")
    sources = dict(one.split("=", 1) for one in options.source)
    worse = 0
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary:
        home = (options.cache or Path(temporary)).absolute()
        environments = Environments(home / "environments", options.python)
        for name in options.suites or SUITES:
            suite = SUITES[name]
            source = Path(sources[name]).absolute() if name in sources else unpacked(name, suite, home, environments)
            project = str(source) if suite.repository or name in sources else f"{name}=={suite.version}"
            wanted = [project, "asgiref>=3.5", "pytest", "pytest-cov", "pytest-timeout", "anyio", *suite.needs]
            python = environments.make(f"suite-{name}{'-source' if name in sources else ''}", wanted)
            runs = functools.partial(run, name, source, python, home)
            result = {**_versions(python, name), **compare(name, options.policy, runs)}
            print(json.dumps({name: result}, indent=1))
            worse += sum(before == "passed" for before, _ in result["otherwise, twice"].values())
            if options.write:
                _keep(name, result)
    return 1 if worse else 0


def _versions(python: str, name: str) -> dict[str, str]:
    code = "import platform; print(platform.python_version())"
    told = subprocess.check_output([python, "-c", code], text=True, timeout=SECONDS_FOR_A_TEST)
    return {"version": installed_versions(python, [name])[name], "python": told.strip()}


def _keep(name: str, result: Mapping[str, Any]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[f"{name} under {result['policy']}"] = result
    RESULTS.write_text(f"{json.dumps(dict(sorted(kept.items())), indent=1)}\n")


if __name__ == "__main__":
    sys.exit(main())
