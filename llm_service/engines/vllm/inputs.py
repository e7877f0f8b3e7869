"""From a checked `Prompt` to what vLLM takes.

The LLaVA families go as prompt embeddings: ids where words stand, our projector's rows where visual tokens stand. Where
a token's place in its picture matters (M-RoPE) they go as a payload that our plugin reads in vLLM's processes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from vllm.inputs import embeds_input, tokens_input

from llm_service.engines.failures import beyond_numbers
from llm_service.models.base import VisualSide
from llm_service.models.splicing import splice
from llm_service.prompts import Prompt
from llm_service.vllm_plugin.payload import multi_modal_data

__all__ = ["engine_input"]

# A row at the place of a word is not read, but it is hashed for the prefix cache. No visual token can be NaN, so no
# picture can be made that passes there for a word.
_NO_ROW: Final = float("nan")


@torch.inference_mode()
def engine_input(prompt: Prompt, visual: VisualSide) -> Any:
    """What `AsyncLLM.generate` takes as a prompt.

    Raises:
        InvalidRequest: A visual token is beyond what the model computes in.
    """
    ids = prompt.input_ids.tolist()
    if not prompt.visual_tokens:
        return tokens_input(ids)
    rows = [visual.embed_visual(tokens).cpu() for tokens in prompt.visual_tokens]
    for one in rows:
        _check(one)
    if visual.has_grid_positions:
        data = multi_modal_data(prompt.visual_tokens, merge_size=visual.merge_size, dtype=visual.dtype)
        return {"prompt_token_ids": ids, "multi_modal_data": data}
    return _with_rows(prompt, rows, visual.visual_token_ids)


def _with_rows(prompt: Prompt, rows: list[torch.Tensor], visual_token_ids: tuple[int, ...]) -> Any:
    """Prompt embeddings of L tokens, of which vLLM looks those of words up itself."""
    placeholders = prompt.placeholders(visual_token_ids)
    ids = torch.from_numpy(prompt.input_ids)
    is_word = splice(torch.ones_like(ids, dtype=torch.bool), placeholders, [torch.zeros(len(r)).bool() for r in rows])
    spliced = splice(ids, placeholders, [ids.new_zeros(len(r)) for r in rows])
    embeds = splice(rows[0].new_full((len(ids), rows[0].shape[1]), _NO_ROW), placeholders, rows)
    return embeds_input(embeds, prompt_token_ids=spliced.tolist(), is_token_ids=is_word.tolist())


def _check(rows: torch.Tensor) -> None:
    """vLLM checks nothing. What is not finite in its key-value cache might stay there for others."""
    # Room for what the layers add to a row.
    if not rows.abs().max() <= torch.finfo(rows.dtype).max / 16:  # also refuses NaN
        raise beyond_numbers()
