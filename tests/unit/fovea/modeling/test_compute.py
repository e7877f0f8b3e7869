"""The compute dtype that both GPU services choose."""

from __future__ import annotations

import pytest
import torch

from encoder_service.settings import EncoderSettings
from fovea.modeling.compute import resolve_dtype
from llm_service.settings import LLMSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "stored", "chosen"),
    [
        (CPU, torch.float16, torch.float32),
        (CPU, None, torch.float32),
        (CUDA, torch.float16, torch.float16),
        (CUDA, torch.bfloat16, torch.bfloat16),
        (CUDA, torch.float32, torch.bfloat16),
        (CUDA, None, torch.bfloat16),
    ],
)
def test_auto_is_float32_on_a_cpu_and_half_on_cuda(
    device: torch.device, stored: torch.dtype | None, chosen: torch.dtype
) -> None:
    assert resolve_dtype("auto", device, stored) == chosen


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_named_dtype_is_taken_on_every_device(device: torch.device, name: str) -> None:
    assert str(resolve_dtype(name, device, torch.bfloat16)) == f"torch.{name}"


def test_both_services_promise_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    for settings in (EncoderSettings, LLMSettings):
        with pytest.raises(SystemExit):
            settings.from_command_line(["--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "auto is float32 on a CPU, and on CUDA the checkpoint's half dtype, or bfloat16 if it has none" in text
