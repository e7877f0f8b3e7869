"""docs/security.md names settings and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from encoder_service.settings import EncoderSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/security.md").read_text()
FLAGS = {
    f"--{name.replace('_', '-')}"
    for settings in (EncoderSettings, GatewaySettings, LLMSettings)
    for name in settings.model_fields
} | {"--engine"}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE))))
def test_each_test_that_is_named_exists(path: str) -> None:
    assert "def test_" in (ROOT / path).read_text()


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"`(--[a-z0-9-]+)[^`]*`", PAGE)) - {"--tls-"}))
def test_each_setting_that_is_named_exists(flag: str) -> None:
    assert flag in FLAGS


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE))))
def test_each_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / "docs" / target).exists()
