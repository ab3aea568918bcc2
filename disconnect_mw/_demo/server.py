"""A server process of the demo, as the demo sees it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

_SECONDS_TO_START = 20.0
_SECONDS_TO_ANSWER = 5.0


class DemoError(Exception):
    """Why the demo cannot run, in one sentence for its user."""


class Server:
    """Runs `disconnect_mw._demo.app` in `directory`, with `python` and `import_path` as its `PYTHONPATH`."""

    def __init__(self, python: str, import_path: str, directory: Path, *, is_wrapped: bool) -> None:
        log = directory / ("wrapped.log" if is_wrapped else "bare.log")
        serve = f"import sys; from disconnect_mw._demo import app; app.serve({is_wrapped}, sys.stdin, sys.stdout)"
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [python, "-c", serve],
                stdin=subprocess.PIPE,  # the server ends when this is closed, also because the demo was killed
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=directory,  # where -c imports from first
                env={**os.environ, "PYTHONPATH": import_path},
            )
        self._log = log.open(encoding="utf-8", errors="replace")
        self.port = 0
        self.versions: dict[str, str] = {}

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def wait_started(self) -> None:
        """Wait for its port and its versions. Raises `DemoError` if it does not start within 20 s."""
        assert self._process.stdout is not None
        limit = threading.Timer(_SECONDS_TO_START, self._process.kill)
        limit.start()
        try:
            answer = self._process.stdout.readline()
        finally:
            limit.cancel()
        if not answer:
            status = self._process.wait()
            last = self.new_log().strip().rpartition("\n")[2] or "nothing"
            raise DemoError(f"the server did not start (exit status {status}); its last line: {last}")
        self._read_facts(answer)

    def _read_facts(self, answer: str | bytes) -> None:
        facts = json.loads(answer)
        self.port, self.versions = facts["port"], facts["versions"]

    def exchanges(self, path: str) -> list[dict[str, Any]]:
        """Return what its witness has recorded of the exchanges with `path`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS_TO_ANSWER)
        try:
            connection.request("GET", "/witness")
            facts = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DemoError(f"the server does not answer: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        return [exchange for exchange in facts if exchange["target"].startswith(f"{path}?")]

    def new_log(self) -> str:
        """Return what it has logged since the last call."""
        return self._log.read()
