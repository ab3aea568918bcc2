"""Which modules `import disconnect_mw` imports in a new interpreter, and how long that takes."""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys

import disconnect_mw

# Without site, because .pth files import modules of their own.
_ASK = """
import sys, time
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
began = time.perf_counter()
import disconnect_mw
took = time.perf_counter() - began
new = sorted(set(sys.modules) - before)
import json
print(json.dumps([new, took]))
"""


def measure(repetitions: int = 5) -> tuple[list[str], float]:
    """The modules that were not there before, and the median of the seconds."""
    where = pathlib.Path(disconnect_mw.__file__).parent.parent
    modules: list[str] = []
    times: list[float] = []
    for _ in range(repetitions):
        command = [sys.executable, "-I", "-S", "-c", _ASK, str(where)]
        answered = subprocess.run(command, capture_output=True, text=True, check=True)
        modules, took = json.loads(answered.stdout)
        times.append(took)
    return modules, statistics.median(times)
