"""Arguments of an operator change how vLLM computes, not its answers."""

from __future__ import annotations

import shutil

import pytest

from fovea.errors import InvalidRequest
from tests.vllm.engines import Requests, answers, served, write

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    checkpoint = write("llava", tmp_path_factory.mktemp("llava"))
    model = served(checkpoint, "transformers")
    model.engine.start()
    yield checkpoint, model.engine
    model.engine.stop()


@pytest.mark.parametrize(
    "engine_args",
    [
        {"tensor_parallel_size": 2},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}},
    ],
    ids=["two workers", "speculation"],
)
async def test_tokens_stay_the_same(expected, engine_args):
    checkpoint, transformers = expected
    vllm = served(checkpoint, "vllm", engine_args={"enforce_eager": True, **engine_args})
    requests = list(Requests(vllm.limits).several(12))
    vllm.engine.start()
    try:
        actual = await answers(vllm.engine, requests)
    finally:
        vllm.engine.stop()
    assert [text for text, _, _ in actual] == [text for text, _, _ in await answers(transformers, requests)]


async def test_min_p_is_refused_with_speculation(expected, tmp_path):
    """A default of the checkpoint is ignored instead."""
    checkpoint = shutil.copytree(expected[0], tmp_path / "copy")
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": true, "min_p": 0.2}')
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    engine_args = {"enforce_eager": True, "speculative_config": speculation}
    vllm = served(checkpoint, "vllm", engine_args=engine_args, generation_defaults="full")
    requests = Requests(vllm.limits)
    vllm.engine.start()
    try:
        assert "min_p" not in vllm.engine.sampling_parameters
        assert (vllm.default_sampling.temperature, vllm.default_sampling.min_p) == (1, 0)
        with pytest.raises(InvalidRequest, match="min_p"):
            vllm.engine.submit(requests.make([60, 61], temperature=1, min_p=0.1))
        assert (await answers(vllm.engine, [requests.make([60, 61], max_tokens=2)]))[0][2].completion_tokens == 2
    finally:
        vllm.engine.stop()
