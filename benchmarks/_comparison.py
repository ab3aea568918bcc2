"""All rows next to each other, in one interpreter that can run them all, so that the ratios are fair.

`python -m benchmarks._comparison OPTIONS` is what runs there: it writes the numbers to its standard output.
"""

from __future__ import annotations

import datetime
import importlib.util
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import disconnect_mw

from . import _counts, _instructions, _memory, _rivals, _times
from ._goals import GOALS
from ._rows import LIMIT, RIVALS
from ._workloads import WORKLOADS

JUDGED = {LIMIT, *(row for _, row in GOALS)}
"""The rows that goals are about: these are counted three times, the others once."""

STREAMS = 10_000

_SECONDS = 3600

PerCell = dict[str, dict[str, float]]  # by workload, by row


class Cancellation(TypedDict):
    microseconds: float
    turns: int


class Numbers(TypedDict):
    """What was measured, as it is kept in a file."""

    date: str
    versions: dict[str, str]
    rows: list[str]
    workloads: list[str]
    instructions: PerCell  # per exchange; empty without valgrind
    microseconds: PerCell  # per exchange
    tasks: dict[str, dict[str, int]]  # per exchange
    read_ahead: dict[str, int]  # messages of a body that the app does not read, before or while it responds
    megabytes: dict[str, float]  # per 10,000 open streams
    cancellations: dict[str, Cancellation]  # from FIN to CancelledError


class Options(NamedTuple):
    rows: list[str]
    workloads: list[str]
    is_quick: bool


Progress = Callable[[str], None]


def tell(text: str) -> None:
    """Show how far it is, where standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)


def measure(options: Options, progress: Progress) -> Numbers:
    """Measure in this interpreter. Without uvicorn there are no cancellations."""
    rows, workloads = options.rows, options.workloads
    logging.disable(logging.CRITICAL)  # some rivals log each client that leaves
    try:
        return Numbers(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            versions=_versions(rows),
            rows=rows,
            workloads=workloads,
            instructions=_count_instructions(options, progress),
            microseconds=_by_workload(
                {
                    cell: seconds * 1e6
                    for cell, seconds in _times.measure(
                        workloads, rows, 5 if options.is_quick else 21, progress
                    ).items()
                }
            ),
            tasks={
                workload: {row: _counts.tasks_made(workload, row) for row in _played(workload, rows)}
                for workload in (*workloads, _counts.LONG)
            },
            read_ahead={
                row: max(_counts.read_ahead(row, answers_first=first) for first in (False, True)) for row in rows
            },
            megabytes={row: _memory.per_stream("open stream", row) * STREAMS / 1e6 for row in rows},
            cancellations=_measure_cancellations(options),
        )
    finally:
        logging.disable(logging.NOTSET)


def _versions(rows: Sequence[str]) -> dict[str, str]:
    versions = {
        platform.python_implementation(): platform.python_version(),
        "disconnect_mw": disconnect_mw.__version__,
    }
    for name in (*(row for row in rows if row in RIVALS), "starlette", "uvicorn"):
        version = _rivals.version(name)
        if version is not None:
            versions[name] = version
    valgrind = _instructions.valgrind_version()
    if valgrind is not None:
        versions["valgrind"] = valgrind
    return versions


def _played(workload: str, rows: Sequence[str]) -> list[str]:
    """Which of the rows play the workload."""
    return [row for row in rows if workload == _counts.LONG or row in WORKLOADS[workload].rows]


def _count_instructions(options: Options, progress: Progress) -> PerCell:
    if _instructions.valgrind_version() is None:
        return {}
    rows = [row for row in options.rows if row in JUDGED or not options.is_quick]
    times = {row: 3 if row in JUDGED and not options.is_quick else 1 for row in rows}
    return _by_workload(_instructions.measure(options.workloads, times, progress))


def _by_workload(cells: dict[tuple[str, str], float]) -> PerCell:
    measured: PerCell = {}
    for (workload, row), number in cells.items():
        measured.setdefault(workload, {})[row] = number
    return measured


def _measure_cancellations(options: Options) -> dict[str, Cancellation]:
    if importlib.util.find_spec("uvicorn") is None:
        return {}
    from . import _cancellations

    measured = {}
    for row in options.rows:
        if row in _cancellations.CANCELLING:
            seconds, turns = _cancellations.measure(row, 5 if options.is_quick else 51)
            measured[row] = Cancellation(microseconds=seconds * 1e6, turns=turns)
    return measured


def measure_with_rivals(options: Options, home: Path | None, progress: Progress) -> tuple[Numbers, dict[str, str]]:
    """Measure in an interpreter that has the rivals. Returns also which of them did not install, and why.

    The interpreter's environment is made in `home` if it is not there yet, or for this one time.
    """
    wanted = [row for row in options.rows if row in RIVALS]
    if _rivals.are_here(wanted):
        return measure(options, progress), {}
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as temporary:
        progress("the rivals: an environment for them")
        try:
            interpreter = _rivals.find_interpreter(wanted, home or Path(temporary))
        except OSError as failure:
            missing = dict.fromkeys(wanted, str(failure))
            return measure(_without(missing, options), progress), missing
        numbers = _measure_in(interpreter.path, Path(temporary), _without(interpreter.missing, options))
        return numbers, interpreter.missing


def _without(missing: dict[str, str], options: Options) -> Options:
    return options._replace(rows=[row for row in options.rows if row not in missing])


def _measure_in(interpreter: str, temporary: Path, options: Options) -> Numbers:
    # Copies, because the directory where this is installed holds more, and of another Python.
    for package in (disconnect_mw.__name__, __package__):
        directory = Path(str(sys.modules[package].__file__)).parent
        shutil.copytree(directory, temporary / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    ended = subprocess.run(
        [interpreter, "-m", __name__, json.dumps(options)],
        cwd=temporary / "code",
        env={**os.environ, "PYTHONPATH": str(temporary / "code")},
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    return _read(ended.stdout)


def _read(text: str) -> Numbers:
    numbers: Numbers = json.loads(text)
    return numbers


def load(path: Path) -> Numbers:
    return _read(path.read_text(encoding="utf-8"))


def save(numbers: Numbers, path: Path) -> None:
    """Save them rounded: digits that no table shows only make two files differ."""
    path.write_text(json.dumps(_rounded(numbers), indent=2) + "\n", encoding="utf-8")


def _rounded(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {name: _rounded(value) for name, value in thing.items()}
    return round(thing, 2) if isinstance(thing, float) else thing


def main(options: str) -> None:
    numbers = measure(Options(*json.loads(options)), tell)
    json.dump(numbers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
