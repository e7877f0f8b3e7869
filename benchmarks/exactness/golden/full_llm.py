"""The golden language model, unpruned, on the visual tokens that an encoder-side method leaves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.exactness.golden.case import Array, Context

__all__ = ["read_visual_tokens"]


def read_visual_tokens(context: Context, inputs: Mapping[str, Array], visual_tokens: Tensor) -> dict[str, Tensor]:
    """Prefills the prompt with `visual_tokens` in place of its own, then feeds the further tokens one by one.

    Args:
        context: Context with the language model.
        inputs: Embedded prompt and further tokens.
        visual_tokens: [K, D] visual tokens after the projector.

    Returns:
        `llm_prefill_last` [D] and `llm_decode` [T, D], hidden states after the final norm.
    """
    embeds = context.tensor(inputs["inputs_embeds"])
    start, count = int(inputs["visual_start"]), int(inputs["visual_count"])
    prompt = torch.cat([embeds[:, :start], visual_tokens[None], embeds[:, start + count :]], dim=1)
    model = context.llama.model
    output = model(inputs_embeds=prompt, use_cache=True)
    prefill_last, decoded = output.last_hidden_state[0, -1], []
    for token in context.tensor(inputs["next_embeds"]):
        output = model(inputs_embeds=token[None, None], past_key_values=output.past_key_values, use_cache=True)
        decoded.append(output.last_hidden_state[0, -1])
    return {"llm_prefill_last": prefill_last, "llm_decode": torch.stack(decoded)}
