"""The bill of a real server: at its shutdown, and as a page in a real browser."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..clients.test_browser import CHROMIUM, launch, why_no_browser
from .serving import PATIENCE, Process

if TYPE_CHECKING:
    from playwright.sync_api import Page

EXAMPLES = Path(__file__).parents[3] / "examples"

COMMAND = "uvicorn --host 127.0.0.1 --port {port} summary_app:app"


def figures(process: Process) -> Any:
    return json.loads(process.get("/departures/json").partition("\r\n\r\n")[2])


def until_known(process: Process, departures: int) -> None:
    """Wait until so many are known, and their apps have ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = figures(process)
        # Each report goes on for two seconds after its client has left; the story ends at once.
        has_ended = any(
            row["wasted_seconds"] > row["departures"] for row in found["routes"] if "report" in row["route"]
        )
        if found["total"]["departures"] == departures and has_ended:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """A server of which three clients have left."""
    with Process(COMMAND, EXAMPLES) as process:
        for _ in range(2):
            process.leave("/report/2", "a report begins")
        process.leave("/story", "a word")
        until_known(process, 3)
        yield process


def test_the_bill_is_said_at_shutdown() -> None:
    with Process(COMMAND, EXAMPLES) as process:
        assert process.get("/report/0").endswith('"reported"')
        process.leave("/report/2", "a report begins")
        process.leave("/story", "a word")
        until_known(process, 2)
        process.stop()
    process.until(r"^disconnect_mw, process \d+: what apps did for clients that had left$")
    process.until(r"^/report/\{seconds\} +2 +1 +\d\.\d +10 +1 +\d\.\d s$")
    process.until(r"^  1 during the response$")
    process.until(r'^policy="cancel" would have saved \d\.\d s of \d\.\d s$')


@pytest.fixture(scope="module")
def page(process: Process) -> Iterator[Page]:
    why = why_no_browser()
    if why is not None:
        pytest.skip(f"NOT tested here: a real browser: {why}")
    assert CHROMIUM is not None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, launch(playwright.chromium, without=[]) as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 600})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.goto(f"http://127.0.0.1:{process.port}/departures/")
        yield page
        assert [problem for problem in problems if "favicon" not in problem and "404" not in problem] == []


def cells(page: Page, row: int) -> list[str]:
    return page.locator("tbody tr").nth(row).locator("td").all_inner_texts()


def test_the_page_shows_the_figures(process: Process, page: Page) -> None:
    assert page.title() == "Clients that left"
    report, story = cells(page, 0), cells(page, 1)
    assert report[0].split("\n") == ["/report/{seconds}", "2 before the response"]
    assert [re.sub(r"\D", "", cell) for cell in report[1:3]] == ["2", "2"]
    assert story[0].split("\n") == ["/story", "1 during the response"]
    assert page.locator("tfoot td").first.inner_text().startswith("all routes")


def width(page: Page, title: str, row: int) -> float:
    box = page.locator("tbody tr").nth(row).locator(f'.bar[title="{title}"]').bounding_box()
    assert box is not None and box["height"] > 2
    return box["width"]


def test_bars_are_as_wide_as_the_figures_are_large(page: Page) -> None:
    assert width(page, "departures", 0) == pytest.approx(2 * width(page, "departures", 1), abs=1)
    assert width(page, "wasted seconds", 0) > width(page, "wasted seconds", 1)  # which may be less than a pixel


def test_nothing_is_wider_than_the_window_even_of_a_telephone(page: Page) -> None:
    for size in ({"width": 1000, "height": 600}, {"width": 360, "height": 640}):
        page.set_viewport_size(size)  # type: ignore[arg-type]  # it is what it takes
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_the_links_lead_to_the_same_figures(process: Process, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 600})
    page.get_by_role("link", name="JSON").click()
    shown = json.loads(page.locator("pre").inner_text())
    assert [row["route"] for row in shown["routes"] if row["departures"]] == ["/report/{seconds}", "/story"]
    page.go_back()
    page.get_by_role("link", name="text").click()
    assert "what apps did for clients that had left" in page.locator("pre").inner_text()
