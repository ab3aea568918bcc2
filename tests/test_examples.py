"""An example whose library is missing ends in one sentence."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

ENDPOINTS = EXAMPLES / "endpoints"
"""Of the recipes, which import them."""

OURS = {"disconnect_mw", "__future__", ENDPOINTS.name, *sys.stdlib_module_names}

OF_DJANGO = EXAMPLES / "django_project" / "urls.py"
"""Which Django itself imports."""

PATHS = [path for path in sorted(EXAMPLES.rglob("*.py")) if path != OF_DJANGO and path.parent != ENDPOINTS]


def needs(path: Path) -> set[str]:
    """The packages that an example imports, but for the standard library's."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found - OURS


def ends(path: Path) -> str:
    """What an example says that ends."""
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(path), run_name="__main__")
    return str(caught.value)


@pytest.mark.parametrize("path", [path for path in PATHS if needs(path)], ids=lambda path: path.stem)
def test_a_missing_library_ends_an_example_in_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that it needs, with the same sentence."""
    sentences = set()
    for name in needs(path):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "argv", [str(path)])
            for module in [name, *(module for module in sys.modules if module.startswith(f"{name}."))]:
                patched.setitem(sys.modules, module, None)
            sentences.add(ends(path))
    (sentence,) = sentences
    assert re.fullmatch(r"This example needs [\w ,-]+: pip install .+", sentence)


@pytest.mark.parametrize(("name", "variable"), [("stop_postgresql", "DATABASE"), ("stop_upstream", "UPSTREAM")])
def test_a_missing_variable_ends_an_example_in_one_sentence(
    name: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert re.fullmatch(
        rf"This example needs an? \w+: set {variable} to its URL, \w+://…", ends(EXAMPLES / f"{name}.py")
    )
