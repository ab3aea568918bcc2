"""A real browser (headless Chromium): however its user or its page drops a connection, the handler ends."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..servers.server import Outcome, Server
from ..servers.setups import NEWEST, Setup
from ..servers.test_servers import why_not
from .test_stalled import PHASES, TO_THE_END

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SETUP = Setup("uvicorn", NEWEST, "asyncio", "httptools", "websockets")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ARGUMENTS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()

BEFORE = "on_disconnect: before the response"

FETCH = """path => {
    connection = new AbortController();
    fetch(path, {signal: connection.signal}).then(response => response.text()).catch(() => {});
}"""
EVENT_SOURCE = "path => { connection = new EventSource(path); }"
WEB_SOCKET = "path => { connection = new WebSocket(location.origin.replace('http', 'ws') + path); }"

OPENED = {
    "fetch() before the response": ("work", FETCH, BEFORE),
    "fetch()": ("stream", FETCH, PHASES["http"]),
    "EventSource": ("stream", EVENT_SOURCE, PHASES["http"]),
    "WebSocket": ("stream", WEB_SOCKET, PHASES["websocket"]),
}
"""What a page does, at which app, and how far the exchange has come."""

CLOSE = "connection.abort ? connection.abort() : connection.close()"

WAYS: dict[str, Callable[[Page], object]] = {
    "closing the tab": lambda page: page.close(),
    "navigating away": lambda page: page.goto("about:blank"),
    "abort() or close()": lambda page: page.evaluate(CLOSE),
}


def why_no_browser() -> str | None:
    if CHROMIUM is None:
        return "there is no Chromium"
    try:
        import playwright  # noqa: F401  # an optional requirement
    except ImportError:
        return "not installed: playwright"
    return why_not(SETUP)


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[[list[str]], Browser]]:
    """What starts Chromium without these of Playwright's options."""
    why = why_no_browser()
    if why is not None:
        pytest.skip(f"NOT tested here: a real browser: {why}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda without: playwright.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, ignore_default_args=without
        )


@pytest.fixture(scope="module")
def browser(launch: Callable[[list[str]], Browser]) -> Iterator[Browser]:
    with launch([]) as browser:
        yield browser


@pytest.fixture(scope="module")
def caching_browser(launch: Callable[[list[str]], Browser]) -> Iterator[Browser]:
    """As a user has it, with a back/forward cache."""
    with launch(["--disable-back-forward-cache"]) as browser:
        yield browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(sys.executable, SETUP, "reach.apps:app", (Path(__file__).parent,)) as server:
        yield server


def play(
    browser: Browser, server: Server, opened: str, policy: str, leave: Callable[[Page], object], goes_on: bool = False
) -> Outcome:
    """What becomes of the handler of a page that is left. If it `goes_on`, it ends by itself half a second later."""
    app, script, _ = OPENED[opened]
    visit = server.visit(app, policy)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/page/bare/-")
        page.evaluate(script, visit.path)
        visit.until("working")
        leave(page)
        if goes_on:
            visit.cue("left")
        return visit.outcome()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("opened", OPENED)
def test_a_browser_that_drops_the_connection_ends_the_handler(
    browser: Browser, server: Server, opened: str, way: str
) -> None:
    outcome = play(browser, server, opened, "cancel", WAYS[way])
    assert outcome == Outcome((OPENED[opened][2], "was cancelled"))


@pytest.mark.parametrize("way", WAYS)
def test_without_the_middleware_the_handler_goes_on_for_nobody(browser: Browser, server: Server, way: str) -> None:
    outcome = play(browser, server, "fetch()", "bare", WAYS[way], goes_on=True)
    assert outcome == Outcome((TO_THE_END,), told=0)


@pytest.mark.parametrize("opened", OPENED)
def test_a_page_in_the_back_forward_cache_keeps_its_connections(
    caching_browser: Browser, server: Server, opened: str
) -> None:
    """For up to a minute (Chromium 156; a WebSocket for longer): nobody behind the browser can tell."""
    outcome = play(caching_browser, server, opened, "cancel", WAYS["navigating away"], goes_on=True)
    assert outcome == Outcome((TO_THE_END,), told=0)


@pytest.mark.parametrize("opened", OPENED)
def test_a_page_that_closes_them_on_pagehide_does_not(caching_browser: Browser, server: Server, opened: str) -> None:
    def leave(page: Page) -> None:
        page.evaluate(f"addEventListener('pagehide', () => {CLOSE})")
        page.goto("about:blank")

    outcome = play(caching_browser, server, opened, "cancel", leave)
    assert outcome == Outcome((OPENED[opened][2], "was cancelled"))
