"""`docs/frameworks.rst` says what the record says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from . import docs, limits, records, setups
from .cells import Cell


def test_the_page_is_the_one_that_the_record_makes() -> None:
    made = docs.page(records.read())
    assert docs.PAGE.read_text(encoding="utf-8") == made, "run python -m tests.real.frameworks.docs"


def test_the_record_has_every_framework_on_every_server_and_the_version_before() -> None:
    record = records.read()
    for framework in setups.FRAMEWORKS.values():
        played = {(version, server) for name, version, server in record.columns if name == framework.name}
        newest = {version for version, _ in played} - {setups.BEFORE[framework.package]}
        assert {server for version, server in played if version in newest} == set(framework.servers)
        assert (setups.BEFORE[framework.package], "uvicorn") in played
        for key, column in record.columns.items():
            if key[0] == framework.name:
                situations = {situation for situation, _, _ in column.cells}
                assert situations == set(framework.on(key[2]))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = records.read()
    records.write(record, tmp_path / "cells.json")
    again = records.read(tmp_path / "cells.json")
    assert {key: column.cells for key, column in again.columns.items()} == {
        key: column.cells for key, column in record.columns.items()
    }
    assert (tmp_path / "cells.json").read_text() == records.PATH.read_text()


def test_a_play_of_one_framework_leaves_the_others_in_the_record() -> None:
    record = records.read()
    ours = {key: column for key, column in record.columns.items() if key[0] == "quart"}
    played = dataclasses.replace(record, columns=dict(list(ours.items())[:1]))
    assert record.columns.keys() - records.merged(record, played).columns.keys() == set(list(ours)[1:])
    with pytest.raises(ValueError, match="play all frameworks"):
        records.merged(record, dataclasses.replace(played, python="2.7"))


def test_what_comes_out_otherwise_than_in_the_record_is_told() -> None:
    record = records.read()
    assert records.differences(record, record.columns) == []
    key = next(iter(record.columns))
    column = dataclasses.replace(record.columns[key], cells=dict(record.columns[key].cells))
    cell_key = next(iter(column.cells))
    column.cells[cell_key] = Cell("lost")
    del column.cells[next(key for key in column.cells if key != cell_key)]
    assert len(records.differences(record, {key: column, ("other", "1", "uvicorn"): column})) == 3


def test_a_cell_says_what_came_of_it() -> None:
    noisy = Cell("raised x.Y", errors=("logger: x.Y",), clean_up="cut", ran=("teardown",), left=("task",))
    quiet = dataclasses.replace(noisy, errors=(), left=(), clean_up="whole")
    assert docs.words("before", "mute", noisy, None) == "stops, **ERROR**, cut, leaves a task (teardown)"
    assert docs.words("before", "mute", noisy, quiet).startswith("stops, **ERROR**, filtered")
    assert docs.words("before", "mute", dataclasses.replace(quiet, is_late=True), None) == "stops late (teardown)"
    assert docs.words("stream", "mute", Cell("finishes"), None) == "endless"
    assert docs.words("stream", "finish", Cell("finishes"), None) == "finishes"
    assert docs.words("bug", "mute", Cell("finishes", is_bug_told=False), None) == "**not told**"


def test_each_limit_is_on_the_page_with_its_reason() -> None:
    page = docs.PAGE.read_text(encoding="utf-8")
    assert all(reason in page for reason in limits.LIMITS.values())
    assert limits.unused(limits.LIMITS) == []
    assert len(limits.unused([])) == len(limits.LIMITS)
