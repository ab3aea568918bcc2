"""The README's table: what comes of the most telling scenarios on each server, without the middleware and with it."""

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

TELLING: Mapping[str, str] = {
    "endless ``StreamingResponse``": "Starlette endless stream, rst, alone",
    "cut ``await request.body()``": "Starlette cut body(), rst, alone",
    "two tasks in ``receive``": "two readers, rst, mute",
    "blocked ``send``": "send blocked, then heard, rst, mute",
    "WebSocket that listens": "ws listener, rst, raise",
    "WebSocket that only sends": "ws only ever sends, rst, raise",
    "left before the accept": "ws returns before accept, fin, raise",
    "answer to a lost HTTP/2 connection": "h2 Starlette slow answer, rst, alone",
}
"""What a column is called, and the scenario that it shows."""

BEGIN, END = ".. begin servers\n", ".. end servers\n"

WASTED = "PAYLOAD REACHED THE SERVER"

KEPT = "✓"
NOT_SPOKEN = "–"


def telling() -> list[Scenario]:
    names = {scenario.name: scenario for scenario in SCENARIOS}
    return [names[name] for name in TELLING.values()]


def play_bare(python: str, column: Column) -> dict[str, str]:
    """What comes of the telling scenarios without the middleware, a word for each, by the scenario's name."""
    words = {}
    left = [scenario for scenario in telling() if scenario.suits(column.setup)]
    while left:
        with Server(python, column.setup) as server:
            while left:
                scenario = left.pop(0)
                try:
                    words[scenario.name] = word(scenario.play(server, bare=True)[0], scenario.expected)
                except (Hang, Crash) as failure:
                    words[scenario.name] = "hangs" if isinstance(failure, Hang) else "crashes"
                    break  # the server may be no good any more
    return words


def word(outcome: Outcome, expected: Outcome) -> str:
    """What happens, as short as can be."""
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
    return "sends to nobody" if is_wasted else KEPT


def _before_its_end(seen: Sequence[str]) -> tuple[str, ...]:
    """Without what an app does after its last message: the server may well complain of that."""
    sends = [index for index, line in enumerate(seen) if line.startswith("send http.response.body")]
    return tuple(seen[: sends[2]] if len(sends) > 2 else seen)


def _raised(seen: Sequence[str]) -> set[str]:
    """The names of the exceptions, without their packages."""
    return {name for line in seen for name in re.findall(r"raises (?:\w+\.)*(\w+)", line)}


def block(columns: Sequence[Column], bare: Mapping[str, Mapping[str, str]]) -> str:
    """The table and what belongs to it, in reStructuredText; `bare` has the words by the title of the column."""
    rows: dict[tuple[str, tuple[str, ...]], list[Column]] = {}
    for column in columns:
        if not column.setup.is_impatient:
            cells = tuple(_cell(bare[column.title].get(name), column.cells.get(name)) for name in TELLING.values())
            rows.setdefault((column.setup.server, cells), []).append(column)
    played = max(len(column.cells) for column in columns)
    lines = [
        f"Measured on {datetime.date.today().isoformat()} with Python {platform.python_version()} on "
        f"{platform.system()}: {len(columns)} set-ups, up to {played} scenarios each.",
        f"Each cell tells what happens without the middleware, then with it: {KEPT} is one and the same transcript on "
        f"all servers and nothing in the log, {NOT_SPOKEN} is not spoken.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        *_row(["server", *TELLING]),
    ]
    for (server, cells), alike in rows.items():
        lines += _row([f"{server} {_names(alike)}", *cells])
    lines += ["", "What a server cannot show, in the scenarios of all columns and of hundreds that no column has:", ""]
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
    """Versions, and the kinds of each where there are several."""
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
    """Put `text` between the markers; a ValueError where they are not."""
    whole = path.read_text(encoding="utf-8")
    if whole.count(BEGIN) != 1 or whole.count(END) != 1 or whole.index(BEGIN) > whole.index(END):
        raise ValueError(f"{path} must have the lines {BEGIN.strip()!r} and {END.strip()!r}, once each, in this order")
    before, rest = whole.split(BEGIN)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
