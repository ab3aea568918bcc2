"""Instructions per exchange, counted by callgrind: the same to about 1 % however busy the machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ._workloads import RIVALS

# Two sizes, subtracted: what is left is free of the start of the interpreter. Both are past the point where CPython
# 3.11 and later have specialised their bytecode. The rivals take more instructions, and BaseHTTPMiddleware so many that
# fewer runs do.
_SIZES = {"GET": (50, 550), "POST": (50, 550), "stream": (20, 70), "upload": (20, 70)}
_SIZES_OF_RIVALS = {"GET": (50, 150), "POST": (50, 150), "stream": (20, 40), "upload": (20, 40)}
_SIZES_OF_BASE = {"GET": (10, 30), "POST": (10, 30), "stream": (2, 6), "upload": (2, 6)}

# A run takes some seconds, BaseHTTPMiddleware's some ten.
_SECONDS_PER_RUN = 300

Cell = tuple[str, str, str]  # driver, workload, row


def valgrind_version() -> str | None:
    """None where callgrind cannot run."""
    if shutil.which("valgrind") is None:
        return None
    asked = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=False)
    return asked.stdout.strip().removeprefix("valgrind-") if asked.returncode == 0 else None


def measure(cells: Mapping[Cell, int], progress: Callable[[str], None]) -> dict[Cell, float]:
    """Instructions per exchange of each cell, the median of so many repetitions."""
    for row in dict.fromkeys(row for _, _, row in cells):  # so that all it imports is compiled
        _run([sys.executable, "-m", "benchmarks._drive", "GET", row, "1", "asyncio"])
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=min(4, cores)) as pool:  # a count does not mind the company
        counts = {cell: [pool.submit(_count, *cell) for _ in range(repetitions)] for cell, repetitions in cells.items()}
        measured = {}
        for number, (cell, futures) in enumerate(counts.items(), 1):
            progress(f"callgrind: {number} of {len(cells)}")
            measured[cell] = statistics.median(future.result() for future in futures)
    return measured


def _count(driver: str, workload: str, row: str) -> float:
    sizes = _SIZES_OF_BASE if row == "base" else _SIZES_OF_RIVALS if row in RIVALS else _SIZES
    small, large = sizes[workload]
    few, many = (_instructions("benchmarks._drive", workload, row, str(size), driver) for size in (small, large))
    return (many - few) / (large - small)


def _instructions(*command: str) -> int:
    """What `python -m` with these words takes, from start to end."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    printed = _run([*_same_addresses(), *valgrind, sys.executable, "-m", *command])
    found = re.search(r"Collected : (\d+)", printed)
    if found is None:
        raise RuntimeError(f"callgrind did not get through {' '.join(command)}:\n{printed[-2000:]}")
    return int(found[1])


def _run(command: list[str]) -> str:
    """What the command prints to its standard error."""
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
    """No address space layout randomisation, where that can be had: dicts keyed by objects then collide alike."""
    if shutil.which("setarch") is not None:
        command = ["setarch", platform.machine(), "-R"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            yield from command
