"""The page that `disconnect-mw check --html` writes, in a real browser (headless Chromium)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from disconnect_mw._check._html import to_html

from ...test_check_reports import make_report
from ..clients.test_browser import ARGUMENTS, CHROMIUM, why_no_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    why = why_no_browser()
    if why is not None:
        pytest.skip(f"NOT tested here: a real browser: {why}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    path = tmp_path / "report.html"
    path.write_text(to_html(make_report()), encoding="utf-8")
    with browser.new_context(offline=True) as context:
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url == path.as_uri() else problems.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert problems == []


def routes(page: Page) -> list[str]:
    return [title.strip() for title in page.locator("article.route:visible h3").all_inner_texts()]


def test_it_reads_without_a_click(page: Page) -> None:
    assert page.title() == "disconnect-mw check: shop:app"
    assert page.locator("#verdict").inner_text() == "With the middleware something misbehaves."
    assert len(routes(page)) == 9
    assert page.locator("#count").inner_text() == "9 routes"
    first = page.locator("article.route", has_text="GET /bad").locator("li.bad").first.inner_text()
    assert "the log fills with" in first and "(in mid-stream; FIN)" in " ".join(first.split())


def test_it_filters(page: Page) -> None:
    page.get_by_label("only what misbehaves").check()
    assert routes(page) == ["GET /bad"]
    page.get_by_label("only what misbehaves").uncheck()
    page.get_by_label("Route").fill("SLOW")
    assert routes(page) == ["GET /slow"]
    page.get_by_label("Route").fill("")
    page.get_by_label("Server").select_option("hypercorn 0.18.0")
    assert len(routes(page)) == 5
    page.get_by_label("Server").select_option("")
    page.locator("#phase").select_option("before response")
    assert routes(page) == ["GET /bad"]
    assert page.locator("details.pair:visible").count() == 1


def test_a_timeline_opens_by_keyboard_and_says_what_it_shows(page: Page) -> None:
    page.get_by_label("Route").fill("good")
    summary = page.locator("article.route:visible details.pair > summary").first
    drawing = page.locator("article.route:visible svg").first
    assert not drawing.is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    assert drawing.is_visible()
    label = drawing.get_attribute("aria-label") or ""
    assert label.startswith("without the middleware: The client leaves; the app is told after 0.01 s")
    box = drawing.bounding_box()
    leaves = drawing.locator("line.leaves").bounding_box()
    begins = drawing.locator("rect.bar").bounding_box()
    assert box is not None and leaves is not None and begins is not None
    assert box["x"] < begins["x"] < leaves["x"] < begins["x"] + begins["width"] < box["x"] + box["width"]


@pytest.mark.parametrize(("scheme", "colour"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")])
def test_it_is_light_or_dark_as_the_reader_has_it(page: Page, scheme: str, colour: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of its literals
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == colour


def test_a_narrow_screen_needs_no_scrolling_to_the_side(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_a_script_it_is_all_there(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(to_html(make_report()), encoding="utf-8")
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        assert len(routes(page)) == 9
        assert not page.locator("#filter").is_visible()
