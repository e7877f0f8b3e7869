"""The snippets of the page: each sends the request on screen, and gets its answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from playwright.sync_api import expect

import gateway
from tests.documented import ROOT
from tests.e2e.page.conftest import OpenPage
from tests.e2e.page.screen import Screen

SAMPLE: Final = Path(gateway.__file__).parent / "http" / "page" / "samples" / "crowded.png"
NAME: Final = 'a "scene"; of Bob\'s,1.png'


def run(kind: str, code: str, folder: Path) -> str:
    program = ["bash", "-euo", "pipefail", "-c", code] if kind == "curl" else [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["curl", "Python", "OpenAI"])
def test_a_snippet_sends_what_is_on_screen(screen: Screen, kind: str, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / NAME)
    screen.page.locator("#file").set_input_files(tmp_path / NAME)
    screen.pane().get_by_text("Second pruner, wire format, fit").click()
    screen.pane().get_by_role("combobox", name="Wire format").select_option("int8")
    screen.pane().get_by_role("combobox", name="Second pruner").select_option("fastv")
    screen.pane().get_by_text("14 parameters of desap").click()
    screen.pane().get_by_role("checkbox", name="fcma", exact=True).uncheck()
    screen.page.get_by_text("Request", exact=True).click()
    screen.page.get_by_role("spinbutton", name="Most tokens of the answer").fill("5")
    screen.ask('What\'s in "it" now; @here?\nTell <me> $HOME é.')
    screen.page.get_by_role("radio", name=kind).check(force=True)
    output = run(kind, screen.page.get_by_label("Code of the request").inner_text(), tmp_path)
    answer = screen.answer().inner_text()
    assert answer
    assert answer in output
    if kind != "OpenAI":  # the others print the object too
        assert "16" in output
        assert "int8" in output


def test_a_snippet_is_copied(open_page: OpenPage) -> None:
    screen = open_page(permissions=["clipboard-read", "clipboard-write"])
    screen.choose_sample("Five")
    screen.page.get_by_role("button", name="Copy").click()
    expect(screen.page.get_by_text("Copied.")).to_be_visible()
    copied = screen.page.evaluate("navigator.clipboard.readText()")
    assert copied == screen.page.get_by_label("Code of the request").inner_text()
    assert copied.startswith("curl -sN http://127.0.0.1:")
