"""The table of docs/conformance.rst is about every server that is played, and says of each what happened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conformance import LIMIT, SAME, Column
from .scenarios import BODY, DISCONNECT, muted
from .server import Outcome
from .setups import VERSIONS, Setup
from .table import BEGIN, END, KEPT, NOT_SPOKEN, SCENARIO_OF_COLUMN, WASTED, block, table_scenarios, word, write

PAGE = Path(__file__).parents[3] / "docs" / "conformance.rst"

EXPECTED = Outcome((DISCONNECT, DISCONNECT, *muted(BODY)))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (EXPECTED, KEPT),
        (Outcome(EXPECTED.seen, errors=("builtins.ValueError",)), "ERROR"),
        (Outcome((DISCONNECT, "SILENCE")), "never stops"),
        (Outcome(EXPECTED.seen, repeats=("socket.send() raised exception.",)), "fills the log"),
        (Outcome(EXPECTED.seen, ends=("raised uvicorn.ClientDisconnected",)), "raises"),
        (
            Outcome((DISCONNECT, f"send {BODY}: raises uvicorn.protocols.utils.ClientDisconnected")),
            "ClientDisconnected",
        ),
        (Outcome((DISCONNECT,)), "differs"),
        (Outcome((DISCONNECT, DISCONNECT, WASTED, *muted(BODY))), "keeps sending"),
    ],
)
def test_what_happens_without_the_middleware_has_a_word(outcome: Outcome, said: str) -> None:
    assert word(outcome, EXPECTED) == said


def test_what_a_server_says_of_a_message_after_the_end_is_no_matter() -> None:
    expected = Outcome((DISCONNECT, *muted(BODY, BODY, BODY), DISCONNECT))
    complaint = f"send {BODY}: raises builtins.RuntimeError"
    assert word(Outcome((DISCONNECT, *muted(BODY, BODY), complaint, DISCONNECT)), expected) == KEPT
    assert word(Outcome((DISCONNECT, *muted(BODY), complaint, complaint, DISCONNECT)), expected) == "RuntimeError"


def test_servers_that_are_alike_share_a_row() -> None:
    names = [scenario.name for scenario in table_scenarios()]
    columns = [
        Column(Setup("uvicorn", version, "asyncio", "h11", "websockets"), version, cells=dict.fromkeys(names, SAME))
        for version in ("0.27.0", "0.28.0", "0.54.0")
    ]
    columns[1].cells[names[0]] = LIMIT
    columns[1].limits["a reason"] = 1
    lines = block(columns, {column.title: dict.fromkeys(names, "hangs") for column in columns}).splitlines()
    first = lines.index("   * - uvicorn 0.27.0, 0.54.0 (h11-websockets-asyncio)")
    assert lines[first + 1 : first + 1 + len(SCENARIO_OF_COLUMN)] == [f"     - hangs, {KEPT}"] * len(SCENARIO_OF_COLUMN)
    second = lines.index("   * - uvicorn 0.28.0 (h11-websockets-asyncio)")
    assert lines[second + 1] == "     - hangs, limit"
    assert "* uvicorn 0.28.0: a reason" in lines


def test_only_the_text_between_the_markers_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.rst"
    path.write_text(f"before\n{BEGIN}old\n{END}after\n", encoding="utf-8")
    write(path, "new\n")
    assert path.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    path.write_text(f"before\n{END}old\n{BEGIN}after\n", encoding="utf-8")
    with pytest.raises(ValueError, match="in this order"):
        write(path, "new\n")


def test_the_page_has_a_row_for_every_server_and_no_failure() -> None:
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    rows = re.findall(r"^   \* - (\w+) (.*)\n((?:     - .*\n)+)", table, re.MULTILINE)
    for server, versions in VERSIONS.items():
        told = " ".join(names for name, names, _ in rows if name == server)
        for version in versions:
            assert re.search(rf"\b{re.escape(version)}\b", told), f"{server} {version}"
    for _, _, cells in rows:
        words = re.findall(r"^     - (.*)$", cells, re.MULTILINE)
        assert len(words) == len(SCENARIO_OF_COLUMN)
        assert {cell.rpartition(", ")[2] for cell in words} <= {KEPT, "limit", NOT_SPOKEN}
