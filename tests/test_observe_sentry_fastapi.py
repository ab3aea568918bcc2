"""What Sentry's own integration of FastAPI captures of a cut upload, with the hooks and without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("hooks", "install", "events"),
    [("without", "outside", 1), ("with", "outside", 0), ("without", "inside", 0)],
)
def test_a_cut_upload_is_no_event(hooks: str, install: str, events: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.sentry_fastapi", hooks, install],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, f"{events}\n"), ran.stderr
