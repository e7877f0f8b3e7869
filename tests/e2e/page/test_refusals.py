"""Errors of the API on the page, API keys, and a proxy that serves the page under a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import expect

from fovea.processes.stack import Stack
from tests.e2e.page.conftest import OpenPage
from tests.e2e.page.prefix_proxy import PrefixProxy, prefix_proxy
from tests.e2e.page.screen import Screen

KEY: Final = "fovea-secret-0123456789"


@pytest.fixture
def proxy(stack: Stack) -> Iterator[PrefixProxy]:
    with prefix_proxy(stack.url) as running:
        yield running


def test_an_error_of_the_api_is_shown_with_its_field(screen: Screen) -> None:
    screen.choose_sample("Crowded")
    screen.pane().get_by_text("14 parameters of desap").click()
    screen.pane().get_by_role("spinbutton", name="task_share").fill("7")
    screen.question.fill("What do you see?")
    screen.ask_button.click()
    failure = screen.pane().get_by_role("alert")
    expect(failure).to_contain_text("task_share = 7.0 is not accepted: 0 to 1")
    expect(failure).to_contain_text(re.compile(r"422 · \w+ · field pruner_params · request \w+"))
    expect(failure.get_by_role("button")).to_have_count(0)
    screen.pane().get_by_role("spinbutton", name="task_share").fill("1")
    screen.ask_button.click()
    screen.wait()
    expect(failure).to_be_hidden()


def test_a_server_that_is_busy_is_asked_again_after_the_time_that_it_names(
    open_page: OpenPage, proxy: PrefixProxy
) -> None:
    screen = open_page(proxy.url)
    screen.choose_sample("Crowded")
    proxy.busy = 1
    screen.question.fill("What color is the moon?")
    screen.ask_button.click()
    failure = screen.pane().get_by_role("alert")
    expect(failure).to_contain_text("this client is at its limit of 6 requests per minute")
    expect(failure).to_contain_text("429 · rate_limited · request of-the-proxy")
    expect(failure).to_contain_text("The server asks to wait 1 s.")
    failure.get_by_role("button", name="Try again", exact=True).click()
    screen.wait()
    expect(screen.answer()).to_have_text("pink")
    expect(failure).to_be_hidden()


def test_a_key_is_asked_for_and_stays_in_the_tab(open_page: OpenPage, proxy: PrefixProxy) -> None:
    proxy.key = KEY
    screen = open_page(proxy.url)
    field = screen.page.get_by_role("textbox", name="API key")
    expect(field).to_be_focused()
    expect(screen.page.get_by_role("alert").filter(has_text="This server needs an API key.")).to_be_visible()
    field.fill("wrong")
    field.press("Enter")
    expect(screen.page.get_by_text("The server did not accept this key.")).to_be_visible()
    field.fill(KEY)
    field.press("Enter")
    expect(screen.pruner()).to_be_visible()
    expect(field).to_be_hidden()
    screen.choose_sample("Crowded")
    screen.ask("What color is the moon?")
    expect(screen.answer()).to_have_text("pink")
    # In the tab's own storage alone, and in no snippet.
    kept = screen.page.evaluate(
        "[Object.values(sessionStorage), Object.values(localStorage), document.cookie, document.body.innerHTML]"
    )
    assert kept[:3] == [[KEY], [], ""]
    assert KEY not in kept[3]
    code = screen.page.get_by_label("Code of the request")
    for kind in ("curl", "Python", "OpenAI"):
        screen.page.get_by_role("radio", name=kind).check(force=True)
        expect(code).to_contain_text("FOVEA_API_KEY")
        expect(code).not_to_contain_text(KEY)
    screen.page.reload()
    expect(screen.pruner()).to_be_visible()
    screen.page.get_by_role("button", name="API key").click()
    screen.page.get_by_role("button", name="Forget").click()
    assert screen.page.evaluate("sessionStorage.length") == 0
    assert set(proxy.keys) == {"", "Bearer wrong", f"Bearer {KEY}"}


def test_an_answer_that_takes_long_can_be_stopped(screen: Screen) -> None:
    screen.choose_sample("Crowded")
    screen.page.get_by_text("Request", exact=True).click()
    screen.page.get_by_role("combobox", name="Caches").select_option("bypass")
    screen.question.fill("What do you see?")
    screen.ask_button.click()
    screen.page.get_by_role("button", name="Stop").click()
    expect(screen.pane().get_by_text("Stopped.")).to_be_visible()
    expect(screen.page.get_by_role("button", name="Stop")).to_be_disabled()


def test_a_server_that_cannot_be_reached_is_said_so(open_page: OpenPage, stack: Stack) -> None:
    with prefix_proxy(stack.url) as proxy:
        screen = open_page(proxy.url)
        screen.choose_sample("Crowded")
        expect(screen.pruner()).to_be_visible()
    screen.question.fill("What color is the moon?")
    screen.ask_button.click()
    expect(screen.pane().get_by_role("alert")).to_contain_text("The server cannot be reached")
