"""The report: both servers beside each other, in the width of the terminal. Needs rich."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .scenes import Evidence, Scene, count, faults, outcomes

_BAD, _GOOD, _HEAD, _QUIET = "red", "green", "bold", "dim"
_SIDES = ("without the middleware", "with the middleware")

_NEXT = (
    ("Install it in Starlette or FastAPI, or around any ASGI app:", "pip install disconnect-mw"),
    ("", "app.add_middleware(DisconnectMiddleware)"),
    ("", "app = DisconnectMiddleware(app)"),
    ("See its line in your own log:", "DISCONNECT_MW_LOG=info uvicorn myapp:app"),
    ("Stop an app whose client has left, or have it finish:", 'DisconnectMiddleware(app, policy="cancel")'),
    ("", 'DisconnectMiddleware(app, policy="finish")'),
    ("See this on the uvicorn that raises from every send:", "python -m disconnect_mw demo --uvicorn 0.28.0"),
)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # what rich has caught: the command line ends by it


def make_console(output: TextIO) -> Console:
    """A console that asks the terminal, `COLUMNS`, `FORCE_COLOR` and `NO_COLOR`; 80 columns where nothing says."""
    return _Console(file=output, highlight=False, markup=False, emoji=False, soft_wrap=False)


class Report:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._faults: list[str] = []

    def begin(self, own_version: str, versions: dict[str, str]) -> None:
        self._print(
            f"disconnect-mw {own_version} on uvicorn {versions['uvicorn']} ({versions['http']}, "
            f"{versions['websocket']}), Starlette {versions['starlette']}, Python {versions['python']}",
            _QUIET,
        )
        self._print(
            "The same app on two servers. In the middle of each exchange two clients leave both: one closes its "
            "connection (FIN), one resets it (RST)."
        )

    def add(self, scene: Scene, bare: Evidence, wrapped: Evidence) -> None:
        """Print what both servers did in a scene, and judge the one with the middleware."""
        self._print()
        self._print(scene.title, _HEAD)
        table = Table(box=None, expand=True, pad_edge=False, header_style=_QUIET)
        table.add_column("", min_width=15, no_wrap=True)
        for side in _SIDES:
            table.add_column(side, ratio=1)
        table.add_row("  log", *map(_log_cell, (bare, wrapped)))
        table.add_row("  app", *(_work_cell(scene, evidence) for evidence in (bare, wrapped)))
        table.add_row("  sent in vain", *map(_wasted_cell, (bare, wrapped)))
        self._console.print(table)
        for side, evidence in zip(_SIDES, (bare, wrapped), strict=True):
            error = evidence.first_error
            lines, style = (error, _BAD) if error else (evidence.disconnect_lines[:1], _GOOD)
            if lines:
                self._print(f"  the log {side}:", _QUIET)
            for line in lines:
                self._console.print(Padding(Text(line, style), (0, 0, 0, 4), expand=False))
        self._faults += [f"{scene.path[1:]}: {fault}" for fault in faults(scene, wrapped)]

    def end(self) -> bool:
        """Print the verdict, and what to do next. Return whether the server with the middleware behaved as promised."""
        self._print()
        if self._faults:
            self._print("With the middleware this was not as promised:", _BAD)
            for fault in self._faults:
                self._print(f"- {fault}")
            return False
        self._print("With the middleware everything was as promised.", _GOOD)
        self._print()
        self._print("What to do next", _HEAD)
        for wish, command in _NEXT:
            if wish:
                self._print(wish)
            self._print(f"    {command}", _GOOD)
        return True

    def _print(self, text: str = "", style: str = "") -> None:
        self._console.print(Text(text, style))


def _log_cell(evidence: Evidence) -> Text:
    if evidence.errors or evidence.tracebacks:
        return Text(f"{count(evidence.errors, 'ERROR')}, {count(evidence.tracebacks, 'traceback')}", _BAD)
    lines = len(evidence.disconnect_lines)
    return Text(f"no ERROR, {count(lines, 'INFO line')}", _GOOD) if lines else Text("nothing")


def _work_cell(scene: Scene, evidence: Evidence) -> Text:
    found = outcomes(scene, evidence)
    return Text(" / ".join(found), _GOOD if found == [scene.promised] else _BAD)


def _wasted_cell(evidence: Evidence) -> Text:
    return Text(count(evidence.wasted_messages, "message") if evidence.wasted_messages else "nothing")
