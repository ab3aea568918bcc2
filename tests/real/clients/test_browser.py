"""A real browser (headless Chromium): however its user or its page drops a connection, the handler ends."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..servers.server import Outcome, Server
from ..servers.setups import INSTALLED, Setup
from ..servers.test_servers import why_not
from .test_stalled import PHASES, TO_THE_END

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, BrowserType, Page

SETUP = Setup("uvicorn", INSTALLED, "asyncio", "httptools", "websockets")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

ARGUMENTS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()

BEFORE = "on_disconnect: before the response"

WORK = """path => {
    connection = new AbortController();
    fetch(path, {signal: connection.signal}).catch(() => {});
}"""
FETCH = """async path => {
    connection = new AbortController();
    const response = await fetch(path, {signal: connection.signal});
    await response.body.getReader().read();
}"""
EVENT_SOURCE = """path => new Promise(resolve => {
    connection = new EventSource(path);
    connection.onmessage = () => resolve();
})"""
WEB_SOCKET = """path => new Promise(resolve => {
    connection = new WebSocket(location.origin.replace("http", "ws") + path);
    connection.onmessage = () => resolve();
})"""
"""What a page does, until its first message has come. A response that is dropped before may be read on by Chromium,
for up to 16 KiB or 5 s, in the hope to use the connection again (net/http/http_response_body_drainer.h)."""

OPENED = {
    "fetch() before the response": ("work", WORK, BEFORE),
    "fetch()": ("stream", FETCH, PHASES["http"]),
    "EventSource": ("stream", EVENT_SOURCE, PHASES["http"]),
    "WebSocket": ("stream", WEB_SOCKET, PHASES["websocket"]),
}
"""The app, what the page does, and what the hook is told."""

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
def chromium() -> Iterator[BrowserType]:
    why = why_no_browser()
    if why is not None:
        pytest.skip(f"NOT tested here: a real browser: {why}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium


def launch(chromium: BrowserType, without: list[str]) -> Browser:
    """Start Chromium, without these of Playwright's own arguments."""
    return chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, ignore_default_args=without)


@pytest.fixture(scope="module")
def browser(chromium: BrowserType) -> Iterator[BrowserContext]:
    with launch(chromium, without=[]) as browser, browser.new_context() as context:
        yield context


@pytest.fixture(scope="module")
def caching_browser(chromium: BrowserType) -> Iterator[BrowserContext]:
    """As a user has it, with a back/forward cache."""
    with launch(chromium, without=["--disable-back-forward-cache"]) as browser, browser.new_context() as context:
        yield context


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(sys.executable, SETUP, "clients.apps:app", (Path(__file__).parent,)) as server:
        yield server


def play(
    browser: BrowserContext,
    server: Server,
    opened: str,
    policy: str,
    leave: Callable[[Page], object],
    goes_on: bool = False,
) -> Outcome:
    """What becomes of the handler of a page that is left. If it `goes_on`, it ends by itself a while later."""
    app, script, _ = OPENED[opened]
    visit = server.visit(app, policy)
    with browser.new_page() as page:
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
    browser: BrowserContext, server: Server, opened: str, way: str
) -> None:
    outcome = play(browser, server, opened, "cancel", WAYS[way])
    assert outcome == Outcome((OPENED[opened][2], "was cancelled"))


def test_without_the_middleware_the_handler_goes_on_for_nobody(browser: BrowserContext, server: Server) -> None:
    outcome = play(browser, server, "fetch()", "bare", WAYS["closing the tab"], goes_on=True)
    assert outcome == Outcome((TO_THE_END,), info_lines=0)


@pytest.mark.parametrize("opened", OPENED)
def test_a_page_in_the_back_forward_cache_keeps_its_connections(
    caching_browser: BrowserContext, server: Server, opened: str
) -> None:
    """For up to a minute (Chromium 156; a WebSocket for longer): nobody behind the browser can tell."""
    outcome = play(caching_browser, server, opened, "cancel", WAYS["navigating away"], goes_on=True)
    assert outcome == Outcome((TO_THE_END,), info_lines=0)


@pytest.mark.parametrize("opened", OPENED)
def test_a_page_that_closes_them_on_pagehide_does_not(
    caching_browser: BrowserContext, server: Server, opened: str
) -> None:
    def leave(page: Page) -> None:
        page.evaluate(f"addEventListener('pagehide', () => {CLOSE})")
        page.goto("about:blank")

    outcome = play(caching_browser, server, opened, "cancel", leave)
    assert outcome == Outcome((OPENED[opened][2], "was cancelled"))
