"""The rooms of the package: each imports from the floors below it, and from nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import disconnect_mw

FLOORS = (
    ("_errors", "_frames", "_messages", "_orphans", "_records", "_spec_version", "_state", "_throw_away"),
    ("_backends", "_options"),
    ("_disconnected", "_timers"),
    ("_blocked_sends", "_cancellation", "_reader", "_telling", "_watcher"),
    ("_callbacks", "_environment", "_observers", "_sends"),
    ("_connection",),
    ("_http", "_view", "_websocket"),
    ("_middleware",),
    ("__init__", "app", "fastapi"),
)
HEIGHTS = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(disconnect_mw.__file__).parent


def imports_of(room: str) -> set[str]:
    """The rooms that a room imports, in type-checking blocks and in functions too."""
    is_package = (PACKAGE / room).is_dir()
    found = set()
    for path in (PACKAGE / room).glob("*.py") if is_package else [PACKAGE / f"{room}.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1 + is_package:
                found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found & HEIGHTS.keys()


def test_imports_go_down_only() -> None:
    up = [(room, other) for room in HEIGHTS for other in imports_of(room) if HEIGHTS[other] >= HEIGHTS[room]]
    assert up == []


def test_each_room_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} - {"__main__"} | {"_backends"}
    assert rooms == HEIGHTS.keys()
