"""Conversion of a validated `Prompt` into vLLM's inputs.

The LLaVA families are passed as prompt embeddings: token ids for text, projected features for visual tokens. Families
with grid positions (M-RoPE) are passed as a payload for the plugin in vLLM's processes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from vllm.inputs import embeds_input, tokens_input

from fovea.errors import InvalidRequest
from llm_service.engine.base import GenerationRequest
from llm_service.engine.errors import overflow_error
from llm_service.models.base import VisualEmbedder
from llm_service.models.placeholders import expand_placeholders
from llm_service.prompts import Prompt
from llm_service.vllm_plugin.payload import multi_modal_data

__all__ = ["check_supported", "engine_input"]

# vLLM does not read the embedding of a text token, but hashes it for the prefix cache. No visual token can be NaN, so
# no embeddings of an image can have the hash of text.
_TEXT_FILLER: Final = float("nan")


@torch.inference_mode()
def engine_input(prompt: Prompt, embedder: VisualEmbedder, cache_salt: str = "") -> Any:
    """Prompt for `AsyncLLM.generate`.

    Args:
        prompt: The prompt.
        embedder: Visual embedder of the checkpoint's family.
        cache_salt: Salt of vLLM's prefix cache; empty for none. vLLM hashes it with the first block of the prompt, on
            which the hashes of all later blocks depend.

    Raises:
        InvalidRequest: A visual token is outside the range of the compute dtype.
    """
    ids = prompt.input_ids.tolist()
    if not prompt.visual_tokens:
        return tokens_input(ids, cache_salt=cache_salt or None)
    if embedder.has_grid_positions:
        data = multi_modal_data(prompt.visual_tokens, merge_size=embedder.merge_size, dtype=embedder.dtype)
        for modality, payload in data.items():
            _check_range(payload[f"{modality}_embeds"])
        salt = {"cache_salt": cache_salt} if cache_salt else {}
        return {"prompt_token_ids": ids, "multi_modal_data": data, **salt}
    embeddings = [embedder.embed_visual(tokens).cpu() for tokens in prompt.visual_tokens]
    for embedding in embeddings:
        _check_range(embedding)
    return _prompt_embeds(prompt, embeddings, embedder.visual_token_ids, cache_salt or None)


def _prompt_embeds(
    prompt: Prompt, embeddings: list[torch.Tensor], visual_token_ids: tuple[int, ...], cache_salt: str | None
) -> Any:
    """Prompt embeddings of L tokens; vLLM itself looks up those of text tokens.

    The ids of visual tokens are their placeholder's: vLLM's repetition penalty applies to all ids of the prompt.
    """
    placeholders = prompt.placeholders(visual_token_ids)
    ids = torch.from_numpy(prompt.input_ids)
    is_text = expand_placeholders(
        torch.ones_like(ids, dtype=torch.bool), placeholders, [torch.zeros(len(e)).bool() for e in embeddings]
    )
    visual_ids = [ids[p].expand(len(e)) for p, e in zip(placeholders, embeddings, strict=True)]
    expanded_ids = expand_placeholders(ids, placeholders, visual_ids)
    filler = embeddings[0].new_full((len(ids), embeddings[0].shape[1]), _TEXT_FILLER)
    embeds = expand_placeholders(filler, placeholders, embeddings)
    return embeds_input(
        embeds, prompt_token_ids=expanded_ids.tolist(), is_token_ids=is_text.tolist(), cache_salt=cache_salt
    )


def _check_range(embeddings: torch.Tensor) -> None:
    """Refuses embeddings that vLLM, which checks nothing, could turn into NaN in its key-value cache."""
    # A factor of 16 is left for what the layers add to the residual stream.
    if not (embeddings.abs() <= torch.finfo(embeddings.dtype).max / 16).all():  # also refuses NaN
        raise overflow_error()


def check_supported(request: GenerationRequest) -> None:
    """Checks that vLLM can run a request.

    Raises:
        InvalidRequest: The request needs a model that runs layer by layer.
    """
    for name, requested in (("llm_pruner", request.pruning), ("cross_attention", request.cross_attention)):
        if requested is not None:
            raise InvalidRequest(
                f"engine vllm cannot run its model layer by layer; leave {name} out, or use a service with"
                " --engine transformers",
                param=name,
            )
