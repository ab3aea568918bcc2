"""Instructions per exchange, counted by callgrind: the same to about 1 % however busy the machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

# Two sizes, subtracted: what is left is free of the start of the interpreter. Both are past the point where CPython
# 3.11 and later have specialised their bytecode. BaseHTTPMiddleware takes so many instructions that fewer runs do.
_SIZES = {"GET": (50, 550), "stream": (20, 70), "upload": (20, 70)}
_SIZES_OF_BASE = {"GET": (10, 30), "stream": (2, 6), "upload": (2, 6)}

Cell = tuple[str, str, str]  # driver, workload, row


def valgrind_version() -> str | None:
    """None where callgrind cannot run."""
    if shutil.which("valgrind") is None:
        return None
    asked = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=False)
    return asked.stdout.strip().removeprefix("valgrind-") if asked.returncode == 0 else None


def measure(cells: list[Cell], repetitions: int, progress: Callable[[str], None]) -> dict[Cell, float]:
    """Instructions per exchange of each cell, the median of so many repetitions."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=min(4, cores)) as pool:  # a count does not mind the company
        counts = {cell: [pool.submit(_count, *cell) for _ in range(_repetitions(cell, repetitions))] for cell in cells}
        measured = {}
        for number, (cell, futures) in enumerate(counts.items(), 1):
            progress(f"callgrind: {number} of {len(cells)}")
            measured[cell] = statistics.median(future.result() for future in futures)
    return measured


def _repetitions(cell: Cell, repetitions: int) -> int:
    return 1 if cell[2] == "base" else repetitions


def _count(driver: str, workload: str, row: str) -> float:
    small, large = (_SIZES_OF_BASE if row == "base" else _SIZES)[workload]
    few, many = (_instructions("benchmarks._drive", workload, row, str(size), driver) for size in (small, large))
    return (many - few) / (large - small)


def _instructions(*command: str) -> int:
    """What `python -m` with these words takes, from start to end."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    ran = subprocess.run(
        [*_same_addresses(), *valgrind, sys.executable, "-m", *command],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode or found is None:
        raise RuntimeError(f"callgrind did not get through {' '.join(command)}:\n{ran.stderr[-2000:]}")
    return int(found[1])


def _same_addresses() -> Iterator[str]:
    """No address space layout randomisation, where that can be had: dicts keyed by objects then collide alike."""
    if shutil.which("setarch") is not None:
        command = ["setarch", platform.machine(), "-R"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            yield from command
