"""The documentation as text: its pages, and the blocks of code in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"


def read(page: str) -> str:
    """The text of a page of the site, "howto/stop"."""
    return (DOCS / f"{page}.rst").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> dict[str, str]:
    """The blocks of code in this language, each by the comment before it, or by its number."""
    found = {}
    pattern = rf"(?:^\.\. (.+)\n)?^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    for number, block in enumerate(re.finditer(pattern, text, re.MULTILINE)):
        found[block[1] or str(number)] = textwrap.dedent(block[2]).strip("\n") + "\n"
    return found
