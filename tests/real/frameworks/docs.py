"""Makes `docs/frameworks.rst` of the record: `python -m tests.real.frameworks.docs`. Nothing is played here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import limits, records, setups
from .cells import FILTERED, Cell, Column
from .records import Record
from .situations import SITUATIONS, STREAMS, VARIANTS, WAYS

PAGE = Path(__file__).parents[3] / "docs" / "frameworks.rst"

TEMPLATE = Path(__file__).with_name("docs.template.rst")
"""The page, with a word in brackets for each part that is made of the record."""

NAMES = {"uvicorn": "uvicorn", "hypercorn": "Hypercorn", "granian": "granian", "daphne": "Daphne"}


def page(record: Record) -> str:
    made = {
        "PYTHON": record.python,
        "SERVERS": ", ".join(f"{NAMES[name]} {version}" for name, version in record.versions.items()),
        "ENDLESS": "\n".join(_endless(record)),
        "LIMITS": "\n".join(_limits()),
        "TABLES": "\n\n".join(_tables(record)),
    }
    whole = TEMPLATE.read_text(encoding="utf-8")
    assert set(re.findall(r"\[([A-Z]+)\]", whole)) == set(made)
    return re.sub(r"\[([A-Z]+)\]", lambda match: made[match[1]], whole)


def words(situation: str, variant: str, cell: Cell, filtered: Cell | None) -> str:
    """What a cell says."""
    is_endless = cell.word == "finishes" and situation in STREAMS and variant != "finish"
    said = ["endless" if is_endless else f"{cell.word} late" if cell.is_late else cell.word]
    if cell.is_bug_told is not None:
        said = ["told" if cell.is_bug_told else "**not told**"]
    if cell.errors:
        said.append("**ERROR**" if filtered is None or filtered.errors else "**ERROR**, filtered")
    if cell.clean_up == "cut":
        said.append("cut")
    if cell.left:
        said.append("leaves a task")
    ran = f" ({', '.join(cell.ran)})" if cell.ran and cell.is_bug_told is None else ""
    return ", ".join(said) + ran


def _cell(columns: Mapping[str, Column], situation: str, variant: str) -> str:
    """The words of all servers, and of both ways to leave, each once."""
    said: dict[str, list[str]] = {}
    for server, column in columns.items():
        by_way = {
            way: words(
                situation,
                variant,
                column.cells[situation, variant, way],
                column.cells.get((situation, f"{variant} {FILTERED}", way)),
            )
            for way in WAYS
            if (situation, variant, way) in column.cells
        }
        if by_way:
            alike = len(set(by_way.values())) == 1
            text = by_way["fin"] if alike else "; ".join(f"{way.upper()}: {one}" for way, one in by_way.items())
            said.setdefault(text, []).append(NAMES[server])
    if len(said) <= 1:
        return next(iter(said), "–")
    return "; ".join(f"{', '.join(servers)}: {text}" for text, servers in said.items())


def _tables(record: Record) -> Iterable[str]:
    for framework in setups.FRAMEWORKS.values():
        versions = dict.fromkeys(version for name, version, _ in record.columns if name == framework.name)
        rows: dict[str, dict[str, Column]] = {}
        for version in versions:
            rows[version] = {
                server: column
                for (name, its, server), column in record.columns.items()
                if (name, its) == (framework.name, version)
            }
        yield "\n".join(_table(framework, rows))


def _table(framework: setups.Framework, rows: Mapping[str, Mapping[str, Column]]) -> Iterable[str]:
    newest = max(rows, key=lambda version: (len(rows[version]), version))
    others = [version for version in rows if version != newest]
    title = f"{framework.title} {newest}"
    yield from (title, "-" * len(title), "")
    if framework.remark:
        yield from (framework.remark, "")
    cells = {version: _rows(framework, columns) for version, columns in rows.items()}
    yield from _list_table(cells[newest])
    for version in others:
        on_uvicorn = _rows(framework, {"uvicorn": rows[newest]["uvicorn"]})
        differing = [row for row, other in zip(cells[version], on_uvicorn, strict=True) if row != other]
        if differing:
            yield from ("", f"{framework.title} {version}, where it differs (on uvicorn):", "")
            yield from _list_table(differing)
        else:
            yield from ("", f"{framework.title} {version} is the same on uvicorn.")


def _rows(framework: setups.Framework, columns: Mapping[str, Column]) -> list[list[str]]:
    return [
        [SITUATIONS[situation], *(_cell(columns, situation, variant) for variant in VARIANTS)]
        for situation in SITUATIONS
        if situation in framework.situations
    ]


def _list_table(rows: Iterable[list[str]]) -> Iterable[str]:
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (["situation", "bare", *(f"``{variant}``" for variant in VARIANTS if variant != "bare")], *rows):
        for index, text in enumerate(row):
            yield f"   {' ' if index else '*'} - {text}"


def endless(record: Record) -> dict[str, list[str]]:
    """The streams over HTTP that are endless under `mute` as bare, by framework."""
    found: dict[str, dict[str, None]] = {}
    for (name, _, _), column in record.columns.items():
        for (situation, variant, _), cell in column.cells.items():
            if variant == "mute" and situation in ("stream", "events", "lines") and cell.word == "finishes":
                found.setdefault(name, {})[SITUATIONS[situation]] = None
    return {name: list(situations) for name, situations in found.items()}


def _endless(record: Record) -> Iterable[str]:
    for name, situations in sorted(endless(record).items()):
        yield f"* {setups.FRAMEWORKS[name].title}: {', '.join(situations)}"


def _limits() -> Iterable[str]:
    """One line for cells that follow each other and have one reason."""
    found: list[tuple[str, str, list[str], str]] = []
    for (framework, situation, variant), reason in limits.LIMITS.items():
        if found and found[-1][:2] == (framework, situation) and found[-1][3] == reason:
            found[-1][2].append(variant)
        else:
            found.append((framework, situation, [variant], reason))
    for framework, situation, variants, reason in found:
        policies = ", ".join(f"``{variant}``" for variant in variants)
        yield f"* {setups.FRAMEWORKS[framework].title}: {SITUATIONS[situation]}, {policies}: {reason}."


def main() -> int:
    PAGE.write_text(page(records.read()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
