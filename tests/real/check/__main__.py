"""Checks the bad app, and takes the picture of its report for the docs: `python -m tests.real.check docs/check.png`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from disconnect_mw.__main__ import main

from ..clients.test_browser import ARGUMENTS, CHROMIUM
from .test_faults import APPS

_ROUTES = ("/noisy", "/endless/")


def take(picture: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="disconnect-mw-") as directory:
        os.environ["UPLOADS"] = directory
        page_path = Path(directory, "report.html")
        arguments = [argument for path in _ROUTES for argument in ("--path", path)]
        server = ("--server", "uvicorn", "--quick", "--quiet")
        main(["check", "bad:app", "--app-dir", str(APPS), *server, *arguments, "--html", str(page_path)])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1100, "height": 1000}, color_scheme="light")
            page.goto(page_path.as_uri())
            page.locator("article.route details.pair > summary").nth(2).click()
            page.screenshot(path=picture)
            browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
