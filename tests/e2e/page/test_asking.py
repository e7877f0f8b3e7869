"""A question on the page: sample, files, camera; the streamed answer, its costs, the slider and two settings."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Final

from playwright.sync_api import expect

import gateway
from tests.e2e.conftest import Pictures
from tests.e2e.page.conftest import OpenPage
from tests.e2e.page.screen import Screen

SAMPLES: Final = Path(gateway.__file__).parent / "http" / "page" / "samples"
DROP: Final = """(zone, [type, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], type.startsWith("video") ? "a.mp4" : "dropped.png", { type }));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
PASTE: Final = """([data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
}"""


def test_a_sample_is_asked_about_and_the_answer_tells_its_costs(screen: Screen) -> None:
    expect(screen.ask_button).to_be_disabled()
    screen.choose_sample("Crowded")
    screen.ask("What color is the moon?")
    expect(screen.answer()).to_have_text("pink")
    assert screen.kept() == (16, 144)
    said = screen.pane().inner_text()
    for stage in ("gateway", "tokenize", "encode", "prefill", "decode"):
        assert re.search(rf"{stage} [\d.]+ m?s", said), stage
    # float32: 16 tokens of 128 channels, and what frames them.
    assert re.search(r"8\.\d+ kB on the wire \(float32\) · image file 24\.6 kB", said)
    assert re.search(r"visual tokens: (miss|hit)", said)
    screen.ask_button.click()
    expect(screen.pane().get_by_text("visual tokens: hit")).to_be_visible()


def test_the_answer_grows_while_it_is_decoded(screen: Screen) -> None:
    screen.choose_sample("Crowded")
    screen.record_answer()
    screen.ask("What do you see?")
    texts = screen.recorded()
    lengths = [len(text) for text in texts]
    assert len(set(lengths)) > 3
    assert lengths == sorted(lengths)
    assert texts[-1] == screen.answer().inner_text()


def test_the_answer_is_on_a_narrow_screen_too(open_page: OpenPage) -> None:
    screen = open_page(width=360, height=740)
    screen.choose_sample("Crowded")
    expect(screen.answer()).not_to_be_in_viewport()
    screen.ask("What color is the moon?")
    expect(screen.answer()).to_be_in_viewport()


def test_the_slider_changes_how_many_tokens_are_kept(screen: Screen) -> None:
    screen.choose_sample("Crowded")
    screen.ask("What color is the moon?")
    assert screen.kept() == (16, 144)
    screen.budget().press("End")
    screen.expect_kept(144)
    screen.budget().press("Home")
    screen.expect_kept(1)
    screen.wait()
    expect(screen.budget()).to_have_attribute("aria-valuetext", "1 % · 1 of 144 tokens")
    screen.page.get_by_text("Request", exact=True).click()
    screen.page.get_by_role("checkbox", name="Ask again when a setting changes").uncheck()
    screen.budget().press("End")
    expect(screen.pane().get_by_text("The request has changed since this answer.")).to_be_visible()
    assert screen.kept() == (1, 144)


def test_two_settings_are_compared_side_by_side(screen: Screen) -> None:
    screen.choose_sample("Crowded")
    screen.page.get_by_role("checkbox", name="Compare two settings").check()
    screen.ask("What letter is on the blue object?")
    screen.wait("Setting B")
    assert (screen.kept(), screen.kept("Setting B")) == ((16, 144), (144, 144))
    expect(screen.answer("Setting B")).to_have_text("T")
    boxes = [screen.pane(name).bounding_box() or {} for name in ("Setting A", "Setting B")]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
    screen.pruner("Setting B").select_option("uniform")
    screen.expect_kept(16, "Setting B")
    # A patch that is marked in one picture is marked in the other too.
    screen.canvas().focus()
    screen.page.keyboard.press("ArrowDown")
    for name in ("Setting A", "Setting B"):
        expect(screen.pane(name).get_by_text(re.compile("^Row 1, column 1: "))).to_be_visible()


def test_the_list_of_pruners_has_their_parameters(screen: Screen) -> None:
    screen.choose_sample("Five")
    screen.pruner().select_option("visionzip")
    screen.pane().get_by_text("1 parameter of visionzip").click()
    screen.pane().get_by_role("spinbutton", name="context_share").fill("0.5")
    screen.ask("How many circles are there?")
    expect(screen.page.get_by_label("Code of the request")).to_contain_text('pruner_params={"context_share":0.5}')
    screen.pruner().select_option("fovea")
    screen.wait()
    screen.pane().get_by_role("checkbox", name="auto (chosen by the pruner)").check()
    expect(screen.page.get_by_label("Code of the request")).to_contain_text("keep_tokens=auto")
    screen.wait()
    assert 0 < screen.kept()[0] < 144


def test_files_are_chosen_dropped_pasted_and_removed(screen: Screen, pictures: Pictures) -> None:
    data = base64.b64encode(pictures.fresh()).decode()
    chosen = screen.page.get_by_role("list", name="Chosen images").get_by_role("listitem")
    screen.page.locator("#file").set_input_files(SAMPLES / "easy.png")
    expect(chosen).to_have_count(1)
    screen.page.get_by_role("region", name="Images").evaluate(DROP, ["image/png", data])
    expect(chosen).to_have_count(2)
    for _ in range(2):
        screen.page.evaluate(PASTE, [data])
    expect(chosen).to_have_count(4)
    # Names tell files apart, in the snippets too.
    assert chosen.get_by_role("link").all_inner_texts() == ["easy.png", "dropped.png", "image.png", "image-2.png"]
    screen.page.get_by_role("button", name="Remove image.png", exact=True).click()
    screen.page.get_by_role("button", name="Remove easy.png").click()
    expect(chosen).to_have_count(2)
    screen.ask("What do you see?")
    assert screen.kept() == (32, 288)
    expect(screen.budget()).to_have_attribute("aria-valuetext", "11.1 %")
    screen.pane().get_by_role("combobox", name="Shown:").select_option("image 2")
    expect(screen.pane().get_by_text("kept 16", exact=True)).to_be_visible()


def test_videos_and_other_files_are_refused_with_a_sentence(screen: Screen) -> None:
    zone = screen.page.get_by_role("region", name="Images")
    zone.evaluate(DROP, ["video/mp4", "AAAA"])
    expect(screen.page.get_by_role("alert").filter(has_text="This page takes images only.")).to_be_visible()
    zone.evaluate(DROP, ["image/png", "AAAA"])
    expect(screen.page.get_by_role("alert").filter(has_text="dropped.png is not an image")).to_be_visible()
    expect(screen.ask_button).to_be_disabled()


def test_a_photo_of_the_camera_is_asked_about(open_page: OpenPage) -> None:
    screen = open_page(permissions=["camera"])
    screen.page.get_by_role("button", name="Camera", exact=True).click()
    expect(screen.page.get_by_role("region", name="Camera")).to_be_visible()
    screen.page.get_by_role("button", name="Take photo").click()
    expect(screen.page.get_by_role("link", name="camera.jpg")).to_be_visible()
    expect(screen.page.get_by_role("region", name="Camera")).to_be_hidden()
    screen.ask("What do you see?")
    assert screen.kept() == (16, 144)
