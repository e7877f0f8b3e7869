"""Variables with the prefix of a service that are none of its settings are told, with what takes their place."""

from __future__ import annotations

import pytest

from fovea.cli.unknown_settings import ignored_variables


@pytest.mark.parametrize(
    ("variable", "helps"),
    [
        ("LLM_MAX_NUM_SEQS", "; use LLM_MAX_BATCH_SIZE=N"),
        ("LLM_TENSOR_PARALLEL_SIZE", "; use LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"tensor_parallel_size\": N}'"),
        ("GATEWAY_MAX_MODEL_LEN", "; use LLM_MAX_MODEL_LEN=N"),
        ("GATEWAY_PORT", "; use --listen HOST:PORT"),
        ("GATEWAY_REFLECTION", "; use ENCODER_REFLECTION=true or LLM_REFLECTION=true, each for one service"),
        ("LLM_CHAT_TEMPLATE", "; the chat template is the checkpoint's own"),
        (
            "ENCODER_GPU",
            "; docker compose reads it; CUDA_VISIBLE_DEVICES chooses the GPU of a process (docs/scaling.md)",
        ),
        ("ENCODER_OF_ANOTHER_PROGRAM", ""),
    ],
)
def test_a_variable_that_no_service_reads_is_told(variable: str, helps: str) -> None:
    assert ignored_variables({variable: "9000"}) == [f"{variable} is not a setting and is ignored{helps}"]


def test_the_key_of_vllm_is_not_ignored_in_silence() -> None:
    (line,) = ignored_variables({"VLLM_API_KEY": "secret"})
    assert line.startswith("VLLM_API_KEY is ignored, and clients need no key for it; use --keys-file FILE")
    assert "secret" not in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLM_MAX_TOKENS", "9"),
        ("LLM_SERVICE_HOST", "10.0.0.1"),
        ("LLM_SERVICE_PORT", "50052"),
        ("GATEWAY_PORT", "tcp://10.0.0.1:8000"),
        ("GATEWAY_PORT_8000_TCP_PORT", "8000"),
        ("LLM_MAX_NUM_SEQS", ""),
        ("LLM_MAX_BACH_SIZE", "9"),  # the service refuses it
        ("MAX_NUM_SEQS", "9"),
    ],
)
def test_settings_and_variables_of_the_platform_are_not_told(variable: str, value: str) -> None:
    assert ignored_variables({variable: value}) == []
