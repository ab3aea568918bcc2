"""The package as an index and its maintainers see it: metadata, size, and what CONTRIBUTING.rst has them do."""

from __future__ import annotations

import ast
import configparser
import io
import re
import subprocess
import sys
import textwrap
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import disconnect_mw
from disconnect_mw._demo import environment

TOP = Path(__file__).parent.parent
PACKAGE = Path(disconnect_mw.__file__).parent
SETTINGS = configparser.ConfigParser()
SETTINGS.read(TOP / "setup.cfg", encoding="utf-8")
RUN = (TOP / ".ci" / "run").read_text(encoding="utf-8")
CONTRIBUTING = (TOP / "CONTRIBUTING.rst").read_text(encoding="utf-8")
CHANGES = (TOP / "CHANGES.rst").read_text(encoding="utf-8")


def test_an_index_can_tell_whose_it_is_and_where_it_lives() -> None:
    told = metadata.metadata("disconnect-mw")
    assert told["Author"] and told["Summary"] and told["License-File"] == "LICENSE"
    addresses = dict(line.split(", ") for line in told.get_all("Project-URL") or ())
    assert [*addresses] == ["Homepage", "Documentation", "Changes", "Issues"]
    assert all(address.startswith(addresses["Homepage"]) for address in addresses.values())


def test_the_addresses_are_in_one_place() -> None:
    """A publisher replaces them in setup.cfg; other text says how to find them."""
    for path in (TOP / "CONTRIBUTING.rst", TOP / "SECURITY.rst", TOP / "CHANGES.rst", *PACKAGE.rglob("*.py")):
        assert "example.org/disconnect-mw" not in path.read_text(encoding="utf-8"), path


def test_the_version_is_in_one_place_and_has_its_changes() -> None:
    assert metadata.version("disconnect-mw") == disconnect_mw.__version__
    assert SETTINGS["metadata"]["version"] == "attr: disconnect_mw.__version__"
    released = re.findall(r"^(\d\S*) \((\d{4}-\d\d-\d\d)\)$", CHANGES, re.MULTILINE)
    assert released[0][0] == disconnect_mw.__version__
    assert [date for _, date in released] == sorted((date for _, date in released), reverse=True)


def test_a_wheel_is_small() -> None:
    """A wheel is a zip of these files. Half a percent of it are its metadata's own lines."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as files:
        for path in [TOP / "README.rst", TOP / "setup.cfg", *PACKAGE.rglob("*")]:
            if path.is_file() and path.suffix != ".pyc":
                files.write(path)
    kibibytes = len(wheel.getvalue()) / 1024
    print(f"a wheel has {kibibytes:.0f} KiB")
    assert kibibytes <= 280


def test_the_extra_demo_has_what_the_demo_needs() -> None:
    names = re.findall(r"^([\w.-]+)(?:\[standard\])?>=", SETTINGS["options.extras_require"]["demo"], re.MULTILINE)
    assert {*environment.NEEDED} - {"websockets"} == {*names}  # which comes with uvicorn[standard]
    assert "uvicorn[standard]" in SETTINGS["options.extras_require"]["demo"]


# What an editor shows

RECORDS = {"_records.py": ("Disconnect", "Exchange"), "_observers.py": ("Departure",)}


@pytest.mark.parametrize("module", RECORDS)
def test_each_field_of_a_record_has_a_text_of_its_own(module: str) -> None:
    """A string under it, which editors show for an attribute."""
    classes = [node for node in ast.parse((PACKAGE / module).read_text()).body if isinstance(node, ast.ClassDef)]
    records = [node for node in classes if node.name in RECORDS[module]]
    assert len(records) == len(RECORDS[module])
    for record in records:
        for field, text in zip(record.body, record.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
                assert isinstance(text, ast.Expr), f"{record.name}.{ast.unparse(field.target)}"


def test_each_public_name_has_a_docstring() -> None:
    for name in set(disconnect_mw.__all__) - {"Policy", "__version__"}:
        thing = getattr(disconnect_mw, name)
        assert thing.__doc__, name
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{attribute}"


# CONTRIBUTING.rst

BLOCKS = [
    (bool(marked), textwrap.dedent(block))
    for marked, block in re.findall(
        r"^ *(?:\.\. (run by \.ci/run)\n *)?\.\. code-block:: console\n\n((?: +\S.*\n)+)", CONTRIBUTING, re.MULTILINE
    )
]
ELSEWHERE = {
    "pytest -n 4\n": 'bash -euc "$command"',  # the README's, which begins with the set-up
    ".ci/run\n": "#!/usr/bin/env bash",
    "python -m tests.real.servers uvicorn==0.54.0\n": "-m tests.real.servers --cache",
    "python -m tests.real.frameworks starlette\n": "-m tests.real.frameworks --python",
}
"""Commands that `.ci/run` runs with other arguments, and how."""


def test_each_command_for_contributors_is_run() -> None:
    others = [block for marked, block in BLOCKS if not marked]
    assert len(BLOCKS) > len(others) > 0
    assert [block for block in others if block not in ELSEWHERE] == [RELEASE]
    assert all(how in RUN for how in ELSEWHERE.values())


RELEASE = next(block for _, block in BLOCKS if "git tag" in block)
TAG = "git -c user.name=me -c user.email=me@example.org tag"


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
def test_a_release_is_refused_until_all_is_as_it_must_be(tmp_path: Path) -> None:
    """The commands of CONTRIBUTING.rst tag and push; the workflow's script then checks, builds and uploads."""
    home, remote = tmp_path / "checkout", tmp_path / "remote.git"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            ["bash", "-ec", command], cwd=home, env=environ, capture_output=True, text=True, timeout=60
        )

    def release() -> str:
        told = run(".ci/release")
        assert (told.returncode == 0) is (not told.stderr), told
        return told.stderr or told.stdout

    for folder in (".ci", "disconnect_mw"):
        (home / folder).mkdir(parents=True)
    (home / ".ci" / "release").write_bytes((TOP / ".ci" / "release").read_bytes())
    (home / ".ci" / "package").write_text('#!/bin/sh\ntouch "$1/the-wheel"\n')
    (home / "disconnect_mw" / "__init__.py").write_text('__version__ = "7.0"\n')
    (home / "CHANGES.rst").write_text("Changes\n=======\n\nUnreleased\n----------\n\n6.0 (2026-01-01)\n---\n")
    (home / "setup.cfg").write_bytes((TOP / "setup.cfg").read_bytes())
    (tmp_path / "twine").write_text('#!/bin/sh\necho "$@"\n')
    for script in (home / ".ci" / "release", home / ".ci" / "package", tmp_path / "twine"):
        script.chmod(0o755)

    commit = "git add -A && git -c user.name=me -c user.email=me@example.org commit -qm one"
    begun = run(f"git init -q . && git init -q --bare {remote} && git remote add origin {remote} && {commit}")
    assert begun.returncode == 0, begun
    assert release() == "not released: the version is 7.0, and the tag that is checked out is none: tag it v7.0\n"
    tagged = run(RELEASE.replace("git tag", TAG))
    assert tagged.returncode == 0, tagged
    assert run(f"git --git-dir {remote} tag").stdout == "v7.0\n"
    assert release() == "not released: the newest heading of CHANGES.rst is not 7.0 with a date\n"
    (home / "CHANGES.rst").write_text("Changes\n=======\n\n7.0 (2026-11-29)\n---\n")
    assert release() == "not released: setup.cfg has placeholders in place of the project's addresses\n"
    (home / "setup.cfg").write_text("[metadata]\n")
    assert re.fullmatch(r"upload --non-interactive \S+/the-wheel\n", release())


def test_the_workflow_of_a_release_runs_what_there_is() -> None:
    workflow = (TOP / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert re.findall(r"- run: (.*)", workflow) == ['pip install -e ".[lint]"', ".ci/release"]
    assert "id-token: write" in workflow, "which a trusted publisher needs"


def test_nox_calls_what_ci_run_calls() -> None:
    sessions = (TOP / "noxfile.py").read_text(encoding="utf-8")
    scripts = {path.name for path in (TOP / ".ci").iterdir()} - {"release"}
    assert set(re.findall(r'"\.ci/(\w+)"', sessions)) == scripts
    assert all(f".ci/{name}" in RUN + CONTRIBUTING for name in scripts)
    assert re.findall(r"PYTHONS = \[(.*)\]", sessions) == ['"3.11", "3.12", "3.13"']
    assert "for version in 3.11 3.12 3.13; do" in RUN
