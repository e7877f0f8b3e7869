"""White space before an answer: left out where it comes from the family's prompt, else as transformers decodes it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from benchmarks.checkpoints.tiny import llava, llava_next, qwen2_5_vl, qwen3_vl, video_llava
from llm_service.engine.base import Done, GenerationRequest
from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams
from llm_service.settings import LLMSettings
from llm_service.startup import load

WRITERS: Final[dict[str, Callable[[Path], Any]]] = {
    "llava": llava.write,
    "video_llava": video_llava.write,
    "llava_next": llava_next.write,
    "llava_next_mistral": partial(llava_next.write, text="mistral"),
    "qwen2_5_vl": qwen2_5_vl.write,
    "qwen3_vl": qwen3_vl.write,
}
SAID: Final = " \n\tHi,x"
ASKED: Final = "?"


def reciter(folder: Path, write: Callable[[Path], Any]) -> Any:
    """Writes a tiny checkpoint that answers SAID to a prompt that ends in ASKED; returns its tokenizer.

    Its layers add nothing, so the embedding of a token alone decides; the head maps it to the token's successor.
    """
    write(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chain = [*tokenizer(ASKED + SAID, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "mlp.down_proj.weight")):
            tensor.zero_()
    (embeddings,) = (tensor for name, tensor in weights.items() if name.endswith("embed_tokens.weight"))
    (head,) = (tensor for name, tensor in weights.items() if name.endswith("lm_head.weight"))
    head.zero_()
    for token, successor in itertools.pairwise(chain):
        head[successor] = embeddings[token]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return tokenizer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("llava", SAID.lstrip()),
        ("video_llava", SAID.lstrip()),
        ("llava_next", SAID.lstrip()),
        ("llava_next_mistral", SAID),
        ("qwen2_5_vl", SAID),
        ("qwen3_vl", SAID),
    ],
)
async def test_an_answer_begins_as_its_family_says(name: str, answer: str, tmp_path: Path) -> None:
    tokenizer = reciter(tmp_path, WRITERS[name])
    engine = load(LLMSettings(model=str(tmp_path), device="cpu", num_threads=1, max_batch_delay_ms=0)).engine
    prompt = Prompt(np.array(tokenizer(ASKED, add_special_tokens=False)["input_ids"]), ())
    engine.start()
    generation = engine.submit(GenerationRequest(prompt, SamplingParams(max_tokens=32), time.monotonic() + 60))
    *deltas, done = [event async for event in generation]
    engine.stop()
    assert isinstance(done, Done)
    assert done.finish_reason == "stop"
    assert tokenizer.decode(done.token_ids, skip_special_tokens=True) == SAID
    assert "".join(delta.text for delta in deltas) == answer  # type: ignore[union-attr]
