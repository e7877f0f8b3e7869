"""The page at `/` of a running gateway, in a real headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from fovea.processes.stack import Stack
from tests.chromium import CHROMIUM, FLAGS
from tests.e2e.page.screen import Screen

OpenPage: TypeAlias = Callable[..., Screen]

_TIMEOUT_MS: Final = 60_000  # of the slowest step, where the cores are shared with other tests
_FLAGS: Final = (*FLAGS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the machine. It ends with the module: Playwright keeps the thread's event loop for itself."""
    if CHROMIUM is None:
        pytest.skip("the page is tested in Chromium, which is not installed (Debian: apt-get install chromium)")
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield chromium
        chromium.close()


def _watch(page: Page, origin: str, complaints: list[str]) -> None:
    def message(said: Any) -> None:
        # Chromium reports each request that failed as an error of the page; those of the API are shown to the user.
        is_failed_call = said.text.startswith("Failed to load resource") and "/v1/" in said.location["url"]
        if said.type in ("error", "warning") and not is_failed_call:
            complaints.append(f"console: {said.text}")

    def request(sent: Any) -> None:
        if not sent.url.startswith((f"{origin}/", f"blob:{origin}/", "data:")):
            complaints.append(f"request: {sent.url}")

    page.on("console", message)
    page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
    page.on("request", request)


@pytest.fixture
def open_page(browser: Browser, stack: Stack) -> Iterator[OpenPage]:
    """Function that opens the page in a browser profile of its own.

    Errors in the console and requests to other origins fail the test.
    """
    contexts, complaints = [], list[str]()

    def opened(url: str = "", *, width: int = 1280, height: int = 800, **options: Any) -> Screen:
        base = url or f"{stack.url}/"
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(_TIMEOUT_MS)
        page = context.new_page()
        _watch(page, "/".join(base.split("/")[:3]), complaints)
        page.goto(base)
        return Screen(page)

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture
def screen(open_page: OpenPage) -> Screen:
    """The page of the services' gateway."""
    return open_page()
