"""The page by keyboard alone, for screen readers, on narrow screens, and in every state by axe-core's rules."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any, Final

import pytest
from playwright.sync_api import expect

from tests.e2e.page.conftest import OpenPage
from tests.e2e.page.screen import Screen

WIDTHS: Final = [(1280, 800), (360, 740)]


def violations(screen: Screen) -> list[str]:
    """Rules that the page breaks, with the elements."""
    screen.page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8"))
    found: dict[str, Any] = screen.page.evaluate("axe.run()")
    return [f"{item['id']}: {node['html'][:200]}" for item in found["violations"] for node in item["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_no_state_breaks_a_rule(open_page: OpenPage, scheme: str, width: int, height: int) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe-core comes with the extra dev: make install")
    screen = open_page(width=width, height=height, color_scheme=scheme)
    expect(screen.pruner()).to_be_visible()
    assert violations(screen) == []
    screen.page.get_by_role("button", name="API key").click()
    assert violations(screen) == []
    for name in ("Task map", "Saliency map"):
        screen.layer(name, shown=True)
    screen.page.get_by_role("checkbox", name="Compare two settings").check()
    screen.choose_sample("Wide")
    screen.page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true; })")
    screen.ask("What color is the ring?")
    screen.wait("Setting B")
    screen.canvas().focus()
    screen.page.keyboard.press("ArrowRight")
    screen.wait()  # a pane that asks anew is pale
    assert violations(screen) == []
    screen.pane().get_by_role("spinbutton", name="task_share").fill("7")
    screen.ask_button.click()
    expect(screen.pane().get_by_role("alert")).to_be_visible()
    screen.wait("Setting B")
    assert violations(screen) == []
    # Nothing is wider than the screen.
    assert screen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_is_done_by_keyboard(screen: Screen) -> None:
    expect(screen.pruner()).to_be_visible()
    keyboard = screen.page.keyboard
    screen.tab_to(screen.page.get_by_role("button", name="Crowded scene"))
    keyboard.press("Enter")
    expect(screen.question).to_have_value("What color is the moon?")
    screen.tab_to(screen.question)
    keyboard.press("End")
    keyboard.press("Enter")
    screen.wait()
    expect(screen.answer()).to_have_text("pink")
    screen.tab_to(screen.page.get_by_role("checkbox", name="Task map"))
    keyboard.press("Space")
    expect(screen.pane().get_by_text(re.compile(r"^task map [\d.]+"))).to_be_visible()
    screen.tab_to(screen.pruner())
    screen.tab_to(screen.budget())
    keyboard.press("End")
    screen.expect_kept(144)
    screen.wait()
    screen.tab_to(screen.canvas())
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        keyboard.press(key)
    expect(screen.pane().get_by_text(re.compile("^Row 2, column 2: kept as token 14 of 144"))).to_be_visible()
    keyboard.press("Escape")
    expect(screen.pane().get_by_text(re.compile("^Row 2"))).to_be_hidden()
    screen.tab_to(screen.page.get_by_role("radio", name="curl"))
    keyboard.press("ArrowRight")
    expect(screen.page.get_by_label("Code of the request")).to_contain_text("from fovea.client import ask")


def test_a_screen_reader_is_told_the_answer_once(screen: Screen) -> None:
    """The answer is a live region that is busy until it is complete; errors are alerts."""
    expect(screen.answer()).to_have_attribute("aria-live", "polite")
    screen.choose_sample("Crowded")
    screen.question.fill("What do you see?")
    screen.answer().evaluate(
        """(answer) => {
          window.busy = [];
          new MutationObserver(() => window.busy.push(answer.getAttribute("aria-busy")))
            .observe(answer, { attributes: true, childList: true });
        }"""
    )
    screen.ask_button.click()
    screen.wait()
    states = screen.page.evaluate("window.busy")
    assert len(states) > 3
    assert set(states[:-1]) == {"true"}
    assert states[-1] == "false"
    expect(screen.canvas()).to_have_accessible_name(
        "Image in 12 rows and 12 columns of patches, 16 tokens kept. Arrow keys go from patch to patch."
    )


@pytest.mark.parametrize(("preference", "animation"), [("no-preference", "blink"), ("reduce", "none")])
def test_nothing_moves_for_users_who_prefer_that(open_page: OpenPage, preference: str, animation: str) -> None:
    screen = open_page(reduced_motion=preference)
    expect(screen.pruner()).to_be_visible()
    screen.pane().evaluate("pane => pane.classList.add('asking')")
    used = screen.answer().evaluate("answer => getComputedStyle(answer, '::after').animationName")
    assert used == animation
