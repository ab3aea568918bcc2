"""The table of docs/conformance.rst: eight scenarios on each server, without the middleware and with it."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .clients import Hang
from .conformance import LIMIT, SAME, Column
from .scenarios import SCENARIOS, Scenario
from .server import Crash, Outcome, Server

SCENARIO_OF_COLUMN: Mapping[str, str] = {
    "endless ``StreamingResponse``": "Starlette endless stream, rst, alone",
    "cut ``await request.body()``": "Starlette cut body(), rst, alone",
    "two tasks in ``receive``": "two readers, rst, mute",
    "blocked ``send``": "send blocked, then heard, rst, mute",
    "WebSocket that listens": "ws listener, rst, raise",
    "WebSocket that only sends": "ws only ever sends, rst, raise",
    "left before the accept": "ws returns before accept, fin, raise",
    "answer to a lost HTTP/2 connection": "h2 Starlette slow answer, rst, alone",
}
"""The title of each column, and its scenario."""

BEGIN, END = ".. begin servers\n", ".. end servers\n"

WASTED = "PAYLOAD REACHED THE SERVER"

KEPT = "✓"
NOT_SPOKEN = "–"


def table_scenarios() -> list[Scenario]:
    names = {scenario.name: scenario for scenario in SCENARIOS}
    return [names[name] for name in SCENARIO_OF_COLUMN.values()]


def play_bare(python: str, column: Column) -> dict[str, str]:
    """Return the outcomes of the table's scenarios without the middleware, in a few words each, by scenario."""
    words = {}
    left = [scenario for scenario in table_scenarios() if scenario.suits(column.setup)]
    while left:
        with Server(python, column.setup) as server:
            while left:
                scenario = left.pop(0)
                try:
                    words[scenario.name] = word(scenario.play(server, bare=True)[0], scenario.expected)
                except (Hang, Crash) as failure:
                    words[scenario.name] = "hangs" if isinstance(failure, Hang) else "crashes"
                    break  # the server may be broken
    return words


def word(outcome: Outcome, expected: Outcome) -> str:
    """Return the outcome in a few words."""
    if outcome.errors:
        return "ERROR"
    if "SILENCE" in outcome.seen:
        return "never stops"
    if outcome.repeats:
        return "fills the log"
    if outcome.ends != expected.ends:
        return "raises"
    is_wasted = WASTED in outcome.seen
    seen = _before_its_end([line for line in outcome.seen if line != WASTED])
    wanted = _before_its_end(expected.seen)
    others = _raised(seen) - _raised(wanted)
    if others:
        return " or ".join(sorted(others))
    if seen != wanted:
        return "differs"
    return "keeps sending" if is_wasted else KEPT


def _before_its_end(seen: Sequence[str]) -> tuple[str, ...]:
    """Return the lines before the app's last message is followed by another, of which a server may complain."""
    sends = [index for index, line in enumerate(seen) if line.startswith("send http.response.body")]
    return tuple(seen[: sends[2]] if len(sends) > 2 else seen)


def _raised(seen: Sequence[str]) -> set[str]:
    """Return the names of the exceptions, without their packages."""
    return {name for line in seen for name in re.findall(r"raises (?:\w+\.)*(\w+)", line)}


def block(columns: Sequence[Column], bare: Mapping[str, Mapping[str, str]]) -> str:
    """Return the table and the text around it, in reStructuredText. `bare` is by the columns' titles."""
    rows: dict[tuple[str, tuple[str, ...]], list[Column]] = {}
    for column in columns:
        if not column.setup.is_impatient:
            cells = tuple(
                _cell(bare[column.title].get(name), column.cells.get(name)) for name in SCENARIO_OF_COLUMN.values()
            )
            rows.setdefault((column.setup.server, cells), []).append(column)
    played = max(len(column.cells) for column in columns)
    lines = [
        f"Measured on {datetime.date.today().isoformat()} with Python {platform.python_version()} on "
        f"{platform.system()}: {len(columns)} set-ups, up to {played} scenarios each.",
        f"Each cell has the outcome without the middleware, then with it. {KEPT}: the same transcript as on all other "
        f"servers, and nothing in the log. {NOT_SPOKEN}: the server does not speak the protocol.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        *_row(["server", *SCENARIO_OF_COLUMN]),
    ]
    for (server, cells), alike in rows.items():
        lines += _row([f"{server} {_names(alike)}", *cells])
    lines += ["", "What a server cannot show, in these scenarios and in hundreds of others:", ""]
    lines += [f"* {line}" for line in _limits(columns)]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> list[str]:
    return [f"   {'*' if index == 0 else ' '} - {cell}" for index, cell in enumerate(cells)]


def _cell(bare: str | None, verdict: str | None) -> str:
    if bare is None or verdict is None:
        return NOT_SPOKEN
    wrapped = {SAME: KEPT, LIMIT: "limit"}.get(verdict, verdict.upper())
    return f"{bare}, {wrapped}" if bare != wrapped else bare


def _names(alike: Sequence[Column]) -> str:
    """Return the versions, each with its kinds of set-up."""
    kinds: dict[str, list[str]] = {}
    for column in alike:
        kinds.setdefault(column.version, []).append(column.setup.kind)
    versions: dict[tuple[str, ...], list[str]] = {}
    for version, names in kinds.items():
        versions.setdefault(tuple(names), []).append(version)
    return "; ".join(f"{', '.join(numbers)} ({', '.join(names)})" for names, numbers in versions.items())


def _limits(columns: Sequence[Column]) -> list[str]:
    servers: dict[str, dict[str, None]] = {}
    for column in columns:
        for reason in column.limits:
            servers.setdefault(reason, {})[f"{column.setup.server} {column.version}"] = None
    return [f"{', '.join(names)}: {reason}" for reason, names in servers.items()]


def write(path: Path, text: str) -> None:
    """Put `text` between the markers. Raises `ValueError` if they are not there."""
    whole = path.read_text(encoding="utf-8")
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
        raise ValueError(f"{path} must have the lines {BEGIN.strip()!r} and {END.strip()!r}, once each, in this order")
    before, rest = whole.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
