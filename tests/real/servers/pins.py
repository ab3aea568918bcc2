"""What the extra `test` in `setup.cfg` pins."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

SETUP_CFG = Path(__file__).parents[3] / "setup.cfg"


def pins() -> dict[str, str]:
    """The version of each package, by its name."""
    config = configparser.ConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    lines = config["options.extras_require"]["test"].split("\n")
    found = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?==([\w.]+)(?:;|$)", line) for line in filter(None, lines)]
    assert all(found), f"{SETUP_CFG}: something in the extra `test` is not pinned: {lines}"
    return {match[1]: match[2] for match in found if match}
