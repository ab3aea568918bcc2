"""Instructions per exchange, counted by callgrind: the same to about 1 % however busy the machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import _drive
from ._workloads import WORKLOADS

# A run takes ten seconds, BaseHTTPMiddleware's thirty.
_SECONDS_PER_RUN = 300

PerCell = dict[tuple[str, str], float]  # by workload and row


def valgrind_version() -> str | None:
    """None where callgrind cannot run."""
    if shutil.which("valgrind") is None:
        return None
    asked = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=False)
    return asked.stdout.strip().removeprefix("valgrind-") if asked.returncode == 0 else None


def measure(workloads: Sequence[str], times: Mapping[str, int], progress: Callable[[str], None]) -> PerCell:
    """Instructions per exchange of each workload under each row, the median of so many runs of the row."""
    played = {row: [workload for workload in workloads if row in WORKLOADS[workload].rows] for row in times}
    played = {row: names for row, names in played.items() if names}
    for row, names in played.items():  # compiles what the row imports
        _run([sys.executable, "-m", "benchmarks._drive", row, *names])
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=min(4, cores)) as pool:  # counts do not depend on what else runs
        runs = {
            row: [pool.submit(_count, row, names, number) for number in range(times[row])]
            for row, names in played.items()
        }
        measured = {}
        for done, (row, futures) in enumerate(runs.items(), 1):
            progress(f"callgrind: {done} of {len(runs)}")
            counts = [future.result() for future in futures]
            for workload in played[row]:
                measured[workload, row] = statistics.median(count[workload] for count in counts)
    return measured


def _count(row: str, workloads: Sequence[str], number: int) -> dict[str, float]:
    """Instructions per exchange of each workload, all of them in one process. `number` is that of the run."""
    counts = between_marks(*_other_addresses(number), "-m", "benchmarks._drive", row, *workloads)
    # The first, third, fifth are the workloads'; the others lie between the end of one and the start of the next.
    return {
        workload: count / _drive.repetitions(workload, row)
        for workload, count in zip(workloads, counts[::2], strict=True)
    }


def between_marks(*arguments: str) -> list[int]:
    """Instructions that Python runs, with these arguments, between each call of `MARK` and the next."""
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as directory:
        out = Path(directory, "callgrind.out")
        valgrind = ["valgrind", "--tool=callgrind", f"--dump-before={_drive.MARK}", f"--callgrind-out-file={out}"]
        _run([*_same_addresses(), *valgrind, sys.executable, *arguments])
        # A numbered file for each mark, of what ran since the mark before, and one without a number, of the end.
        marks = len(list(out.parent.iterdir())) - 1
        return [_total(out.with_name(f"{out.name}.{number}")) for number in range(2, marks + 1)]


def _total(path: Path) -> int:
    found = re.search(r"^totals: (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no totals in {path}: callgrind writes another format than it did")
    return int(found[1])


def _run(command: list[str]) -> str:
    """Returns what the command prints to its standard error."""
    ran = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS_PER_RUN,
    )
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ran.stderr[-2000:]}")
    return ran.stderr


def _same_addresses() -> Iterator[str]:
    """No address space layout randomisation, where setarch is allowed: dicts keyed by objects then collide alike."""
    if shutil.which("setarch") is not None:
        command = ["setarch", platform.machine(), "-R"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            yield from command


def _other_addresses(number: int) -> Iterator[str]:
    """Options without a meaning, which put the objects of each run elsewhere, in every measurement alike.

    CPython caches attributes by the address of their names. Two names that share a place there cost 1.5 % of a GET: in
    one run, and not in the median of three.
    """
    for index in range(20 * number):
        yield f"-Xrun{number}-{index}"
