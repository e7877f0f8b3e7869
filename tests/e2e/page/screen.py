"""What is on the page, by the names that a user sees."""

from __future__ import annotations

import re
from typing import Any, Final, cast

from playwright.sync_api import Locator, Page, expect

__all__ = ["Screen"]

_KEPT: Final = re.compile(r"(\d+) of (\d+) kept")
_MAX_TABS: Final = 80

_CENTERS: Final = """(canvas, [rows, columns]) => {
  const pen = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  const centers = [];
  for (let patch = 0; patch < rows * columns; patch++) {
    const x = ((patch % columns) + 0.5) * canvas.width / columns;
    const y = (Math.floor(patch / columns) + 0.5) * canvas.height / rows;
    centers.push([...pen.getImageData(Math.floor(x), Math.floor(y), 1, 1).data]);
  }
  return centers;
}"""
_RECORD: Final = """(answer) => {
  window.texts = [];
  new MutationObserver(() => window.texts.push(answer.textContent))
    .observe(answer, { childList: true, characterData: true, subtree: true });
}"""


class Screen:
    """The page in a browser."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.ask_button = page.get_by_role("button", name="Ask", exact=True)
        self.question = page.get_by_role("textbox", name="Question")

    def pane(self, name: str = "Setting A") -> Locator:
        return self.page.get_by_role("region", name=name)

    def answer(self, pane: str = "Setting A") -> Locator:
        return self.pane(pane).locator(".answer")

    def canvas(self, pane: str = "Setting A") -> Locator:
        return self.pane(pane).locator(".picture > canvas")

    def pruner(self, pane: str = "Setting A") -> Locator:
        return self.pane(pane).get_by_role("combobox", name="Pruner", exact=True)

    def budget(self, pane: str = "Setting A") -> Locator:
        return self.pane(pane).get_by_role("slider", name="Budget").first

    def choose_sample(self, name: str) -> None:
        """Clicks a sample whose title begins with `name`, and waits until it is shown."""
        self.page.get_by_role("button", name=re.compile(f"^{name}")).click()
        expect(self.page.get_by_role("list", name="Chosen images").get_by_role("listitem")).to_have_count(1)
        expect(self.question).not_to_have_value("")

    def ask(self, question: str) -> None:
        """Asks, and waits for the answer."""
        self.question.fill(question)
        self.ask_button.click()
        self.wait()

    def wait(self, pane: str = "Setting A") -> None:
        """Waits until a pane has an answer and asks no more."""
        expect(self.answer(pane)).to_have_attribute("aria-busy", "false")
        expect(self.answer(pane)).not_to_be_empty()
        expect(self.pane(pane).get_by_text("Visual tokens", exact=True)).to_be_visible()

    def kept(self, pane: str = "Setting A") -> tuple[int, int]:
        """Kept tokens and all tokens, as the page says."""
        found = _KEPT.search(self.pane(pane).inner_text())
        assert found
        return int(found[1]), int(found[2])

    def expect_kept(self, number: int, pane: str = "Setting A") -> None:
        """Waits until the page says that `number` tokens were kept."""
        expect(self.pane(pane).get_by_text(re.compile(rf"^{number} of \d+ kept"))).to_be_visible()

    def patch_colors(self, rows: int, columns: int, pane: str = "Setting A") -> list[tuple[int, int, int]]:
        """Colour of the middle of each patch, of an image that the patches cover as a whole."""
        colors = self.canvas(pane).evaluate(_CENTERS, [rows, columns])
        return [cast(tuple[int, int, int], tuple(color[:3])) for color in colors]

    def layer(self, name: str, *, shown: bool) -> None:
        self.page.get_by_role("checkbox", name=name, exact=True).set_checked(shown)

    def record_answer(self) -> None:
        """Begins to record the texts of the answer; see `recorded`."""
        self.answer().evaluate(_RECORD)

    def recorded(self) -> list[str]:
        texts: list[Any] = self.page.evaluate("window.texts")
        return [text for text in texts if text]

    def tab_to(self, target: Locator) -> None:
        """Presses Tab until an element has the focus, which must be visible then."""
        for _ in range(_MAX_TABS):
            self.page.keyboard.press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                assert target.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
                return
        raise AssertionError(f"Tab does not reach {target}")
