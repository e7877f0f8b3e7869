"""What `fovea up` advises in place of flags that it does not have exists."""

from __future__ import annotations

import re

import pytest

from encoder_service.settings import EncoderSettings
from fovea.cli import main
from fovea.cli.service_flags import REPLACEMENTS
from gateway.settings import GatewaySettings
from llm_service.settings import LLMSettings

VARIABLES = {
    f"{settings.model_config['env_prefix']}{field}".upper()
    for settings in (EncoderSettings, GatewaySettings, LLMSettings)
    for field in settings.model_fields
}


@pytest.mark.parametrize("flag", REPLACEMENTS)
def test_what_replaces_a_flag_exists_and_the_flag_does_not(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"--[a-z-]+|[A-Z]+_[A-Z_]+", REPLACEMENTS[flag].partition(", which")[0]))
    assert named
    assert named <= VARIABLES | options
    assert flag not in options
