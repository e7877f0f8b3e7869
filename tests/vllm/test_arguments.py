"""Arguments of vLLM: which ones an operator may set, and the errors for the others."""

from __future__ import annotations

import pytest

from fovea.modeling.compute import resolve_device
from fovea.modeling.errors import CheckpointError
from llm_service.engine.vllm.arguments import engine_arguments, vllm_device
from llm_service.models import load_visual_embedder
from tests.vllm.engines import served, write


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write("llava", tmp_path_factory.mktemp("llava"))


def arguments(checkpoint, **engine_args):
    embedder = load_visual_embedder(checkpoint, device=resolve_device("cpu"), dtype="auto")
    return engine_arguments(checkpoint, embedder, engine_args, max_model_len=256, max_batch_size=4)


def test_vllm_gets_the_operators_arguments_and_the_engines(checkpoint):
    args = arguments(checkpoint, tensor_parallel_size=2, speculative_config={"method": "ngram"}, quantization="fp8")
    assert (args.tensor_parallel_size, args.quantization) == (2, "fp8")
    assert args.speculative_config["method"] == "ngram"
    assert (args.model, args.dtype, args.max_model_len, args.max_num_seqs) == (str(checkpoint), "float32", 256, 4)
    assert args.enable_prompt_embeds


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'.*Accepted: .*gpu_memory_utilization"),
        ({"dtype": "float16"}, "the setting --dtype determines it"),
        ({"max_num_seqs": 3}, "the setting --max-batch-size determines it"),
        ({"enable_prompt_embeds": False}, "the engine relies on its own value"),
        ({"hf_overrides": {}}, "the engine relies on its own value"),
    ],
)
def test_other_arguments_are_refused_with_a_list_of_accepted_ones(checkpoint, engine_args, message):
    with pytest.raises(CheckpointError, match=message):
        arguments(checkpoint, **engine_args)


def test_a_device_that_vllm_is_not_built_for_is_refused():
    assert vllm_device("auto") == vllm_device("cpu") == resolve_device("cpu")
    with pytest.raises(CheckpointError, match="built for cpu"):
        vllm_device("cuda")


def test_a_value_that_vllm_refuses_is_an_error_in_one_line(checkpoint):
    with pytest.raises(CheckpointError, match=r"vLLM does not start.*block_size") as caught:
        served(checkpoint, "vllm", engine_args={"block_size": -3})
    assert "\n" not in str(caught.value)
