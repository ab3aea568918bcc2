"""The site: Sphinx builds it without a warning, each link leads somewhere, and its search finds what one looks for."""

from __future__ import annotations

import functools
import html.parser
import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.pages import DOCS, TOP
from .. import IS_FULL
from ..clients.test_browser import ARGUMENTS, CHROMIUM

pytestmark = [
    pytest.mark.skipif(not IS_FULL, reason="Sphinx takes its time: TESTS_FULL=1"),
    pytest.mark.skipif(
        importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("furo") is None,
        reason="NOT tested here: no Sphinx, no furo (the extra `docs`)",
    ),
]

SEARCHED = {
    "shield": "howto/save",
    "gunicorn": "howto/servers",
    "is_disconnected": "questions",
    "wait_disconnected": "api/disconnect_mw",
    "grafana": "observe",
    "prometheus": "observe",
    "max_orphans": "howto/bound",
}
"""What readers look for, and a page that has it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(place)]
    ended = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return place


class Page(html.parser.HTMLParser):
    """What a page links to, and what it can be linked to by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.add(found.get("id") or "")
        link = found.get("href" if tag in ("a", "link") else "src")
        if link is not None:
            self.links.append(link)


def test_each_link_within_the_site_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 25
    broken = []
    for path, page in pages.items():
        for link in page.links:
            address = urllib.parse.urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            if not target.exists():
                broken.append(f"{path.name}: {link}")
            elif address.fragment and target in pages and address.fragment not in pages[target].anchors:
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_the_pictures_are_where_the_readme_says(site: Path) -> None:
    readme = (TOP / "README.rst").read_text(encoding="utf-8")
    (address,) = [line.split("/_images/")[1] for line in readme.splitlines() if "/_images/" in line]
    assert (site / "_images" / address).exists()


def test_the_index_of_the_search_has_what_readers_look_for(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    for word, page in SEARCHED.items():
        found = [
            places
            for terms in (index["terms"], index["titleterms"])
            for stem, places in terms.items()
            if word.startswith(stem) and len(stem) > 4
        ]
        numbers = [number for places in found for number in ([places] if isinstance(places, int) else places)]
        assert page in [index["docnames"][number] for number in numbers], word


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)


@pytest.mark.skipif(CHROMIUM is None, reason="NOT tested here: there is no Chromium")
@pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="NOT tested here: no playwright")
def test_a_browser_finds_each_page(address: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        for word, wanted in SEARCHED.items():
            page.goto(f"{address}/search.html?q={word}", timeout=120_000)
            page.wait_for_selector(f'#search-results a[href*="{wanted}.html"]', timeout=120_000)
        page.goto(f"{address}/index.html", timeout=120_000)
        assert page.title().startswith("disconnect_mw")
        assert errors == []
        browser.close()
