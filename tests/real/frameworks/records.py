"""The cells of the last full play, kept as JSON, of which the page is made and with which the next play is compared."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from .cells import Cell, Column
from .setups import ERRORS_BY_CHANCE, SERVERS

PATH = Path(__file__).with_name("cells.json")


@dataclasses.dataclass
class Record:
    """The columns of a full play, by framework, version and server."""

    python: str
    versions: dict[str, str]  # of the servers
    columns: dict[tuple[str, str, str], Column]


# In tracebacks: where the packages lie on the machine that has made the record.
_FOLDERS = re.compile(r'(?<=\\")/[^"\\\s]*/(?=[^"/]+/[^"]*\.py\\")')


def read(path: Path = PATH) -> Record:
    kept: Any = json.loads(path.read_text(encoding="utf-8"))
    cells = [Cell(**{name: _frozen(value) for name, value in fields.items()}) for fields in kept["cells"]]
    columns = {}
    for one in kept["columns"]:
        column = Column(one["framework"], SERVERS[one["server"]])
        for key, number in one["cells"].items():
            situation, variant, ways = key.split("/")
            column.cells.update({(situation, variant, way): cells[number] for way in ways.split(",")})
        columns[one["framework"], one["version"], one["server"]] = column
    return Record(kept["python"], kept["versions"], columns)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def write(record: Record, path: Path = PATH) -> None:
    """Write each different cell once, and the columns as numbers of these."""
    numbers: dict[Cell, int] = {}
    columns = []
    for (framework, version, server), column in sorted(record.columns.items()):
        by_cell: dict[tuple[str, str, Cell], list[str]] = {}
        for (situation, variant, way), cell in sorted(column.cells.items()):
            by_cell.setdefault((situation, variant, cell), []).append(way)
        cells = {
            f"{situation}/{variant}/{','.join(ways)}": numbers.setdefault(cell, len(numbers))
            for (situation, variant, cell), ways in by_cell.items()
        }
        columns.append({"framework": framework, "version": version, "server": server, "cells": cells})
    kept = {
        "python": record.python,
        "versions": record.versions,
        "cells": [_fields(cell) for cell in numbers],
        "columns": columns,
    }
    text = _FOLDERS.sub("", json.dumps(kept, indent=1))
    path.write_text(f"{text}\n", encoding="utf-8")


def merged(kept: Record, played: Record) -> Record:
    """The record, with the frameworks that were played anew. Raises `ValueError` if that was on something else."""
    if (played.python, played.versions) != (kept.python, kept.versions):
        raise ValueError(f"the record is of Python {kept.python} and {kept.versions}: play all frameworks to write")
    anew = {framework for framework, _, _ in played.columns}
    old = {key: column for key, column in kept.columns.items() if key[0] not in anew}
    return dataclasses.replace(kept, columns={**old, **played.columns})


def _fields(cell: Cell) -> dict[str, Any]:
    """What differs from the usual."""
    return {
        field.name: getattr(cell, field.name)
        for field in dataclasses.fields(cell)
        if field.name == "work" or getattr(cell, field.name) != field.default
    }


def differences(record: Record, columns: dict[tuple[str, str, str], Column]) -> list[str]:
    """What has come out otherwise than in the record, in the words of the page."""
    found = []
    for key, column in columns.items():
        kept = record.columns.get(key)
        if kept is None:
            found.append(f"{' '.join(key)}: it is not in the record")
            continue
        for cell_key in column.cells.keys() | kept.cells.keys():
            now, then = (cells.get(cell_key) for cells in (column.cells, kept.cells))
            gists = [None if cell is None else cell.gist for cell in (now, then)]
            if key[0] in ERRORS_BY_CHANCE:
                gists = [None if gist is None else gist[:1] for gist in gists]
            if None in gists or gists[0] != gists[1]:
                found.append(f"{' '.join(key)}: {', '.join(cell_key)}: {gists[0]}, recorded: {gists[1]}")
    return found
