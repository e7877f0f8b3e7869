"""The site in a real headless Chromium, on a desktop and on a phone, without a network."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.chromium import CHROMIUM, FLAGS
from tests.local_http_server import LocalHttpServer

pytestmark = pytest.mark.slow
_TIMEOUT_MS = 60_000


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(site))

        def log_message(self, *args: Any) -> None:
            pass

    with LocalHttpServer(Handler) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("the site is tested in Chromium, which is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", ["", "api/", "pruners/", "architecture/", "benchmarks/results/accuracy/"])
def test_a_page_fits_the_screen_and_asks_no_other_host(page: str, width: int, url: str, browser: Browser) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}) as context:
        opened, requests, errors = context.new_page(), list[str](), list[str]()
        opened.on("request", lambda request: requests.append(request.url))
        opened.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        opened.goto(f"{url}/{page}", wait_until="networkidle", timeout=_TIMEOUT_MS)
        # The theme lets wide tables scroll once its script runs.
        opened.wait_for_function("document.documentElement.scrollWidth === innerWidth", timeout=_TIMEOUT_MS)
        assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert not errors
        assert not [request for request in requests if not request.startswith((f"{url}/", f"blob:{url}/", "data:"))]


def test_the_search_finds_a_setting_by_its_name(url: str, browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{url}/", timeout=_TIMEOUT_MS)
        page.get_by_role("textbox", name="Search").fill("max_wire_bytes")
        expect(page.locator(".md-search-result__link").first).to_be_visible(timeout=_TIMEOUT_MS)
        assert "max_wire_bytes" in page.locator(".md-search-result__list").inner_text()
