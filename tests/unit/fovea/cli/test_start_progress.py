"""What `fovea up` shows while services start."""

from __future__ import annotations

import io
import sys

import pytest

from fovea.cli.start_progress import start_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, **checks: str) -> str:
    """Text on a terminal after one look at `/readyz`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with start_progress() as progress:
            progress.show(checks)
    return terminal.getvalue()


def test_a_service_that_loads_is_waited_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, encoder="ok", llm="not serving")
    assert "encoder service  ready after" in text
    assert "waiting for LLM service (" in text


def test_a_service_that_is_not_ready_for_another_reason_is_shown_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, encoder="ok", llm="not accepting the bearer token of this gateway")
    assert "waiting for LLM service, which is not accepting the bearer token of this gateway (" in text
