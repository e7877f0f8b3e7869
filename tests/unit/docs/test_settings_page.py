"""docs/settings.md says what the settings classes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from docsite.settings_page import PAGE, main, render
from encoder_service.settings import EncoderSettings
from fovea.settings import ServiceSettings
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "python -m docsite.settings_page writes it"


@pytest.mark.parametrize("settings", [GatewaySettings, EncoderSettings, LLMSettings])
def test_every_setting_has_one_row_with_its_variable(settings: type[ServiceSettings]) -> None:
    for name in settings.model_fields:
        variable = f"{settings.model_config.get('env_prefix')}{name.upper()}"
        assert render().count(f"| `--{name.replace('_', '-')}` `{variable}` |") == 1


@pytest.mark.parametrize(
    "cells",
    [
        "| `--listen` `ENCODER_LISTEN` | `127.0.0.1:50051` | text |",
        "| `--model` `LLM_MODEL` | required | text |",
        "| `--keep-ratio` `GATEWAY_KEEP_RATIO` |  | number |",
        "| `--max-images` `GATEWAY_MAX_IMAGES` | `8` | integer, at least 1, at most 64 |",
        "| `--max-image-bytes` `GATEWAY_MAX_IMAGE_BYTES` | `16777216` (16 MiB) | integer, at least 1 |",
        "| `--engine` `LLM_ENGINE` | `auto` | `auto`, `transformers`, `vllm` |",
        "| `--reflection` `LLM_REFLECTION` | off | flag |",
    ],
)
def test_a_row_has_default_and_accepted_values(cells: str) -> None:
    assert cells in render()


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.md"
    assert main(["--out", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert file.read_text() == render()
