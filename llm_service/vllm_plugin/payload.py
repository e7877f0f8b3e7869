"""Payloads for the plugin: kept visual tokens and their grid positions, in place of images and videos.

A payload has vLLM's own fields for embeddings and two more. For n images of K_1 ... K_n kept tokens (videos have the
prefix `video`):

    image_embeds       [K_1 + ... + K_n, W]  embeddings of the language model's width H, image after image. With P
                                             DeepStack planes each is followed by those of its token: W = (1 + P) H
    image_grid_thw     [n, 3] int64          frames, rows and columns of each *unpruned* grid, in patches before merging
    image_num_tokens   [n] int64             K_i
    image_positions    [K_1 + ... + K_n]     int64: position of each token in the merged grid, counted frame by frame,
                                             row by row
    second_per_grid_ts [n] float32           videos only: seconds from one frame of the grid to the next

For Qwen3-VL an item of `video` is one frame, which may have no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from llm_service.prompts import VisualTokens

__all__ = ["MODALITIES", "SECONDS", "Modality", "Payload", "multi_modal_data"]

Modality = Literal["image", "video"]
Payload = dict[str, torch.Tensor]

MODALITIES: Final[tuple[Modality, ...]] = ("image", "video")

# vLLM's name of the field, which has no prefix `video`.
SECONDS: Final = "second_per_grid_ts"


def multi_modal_data(
    visual_tokens: Sequence[VisualTokens], *, merge_size: int, dtype: torch.dtype
) -> dict[Modality, Payload]:
    """`multi_modal_data` of a vLLM prompt, for pruned and unpruned visual tokens.

    The prompt has *one* placeholder for each image and video, in the same order; vLLM repeats it. For Qwen3-VL, which
    writes videos frame by frame, it has one for each frame, followed by the end of vision:

        {"prompt_token_ids": prompt.input_ids.tolist(),
         "multi_modal_data": multi_modal_data(prompt.visual_tokens, merge_size=2, dtype=torch.bfloat16)}

    The engine needs `hf_overrides={"architectures": [ARCHITECTURE]}`, of Qwen3-VL `QWEN3_ARCHITECTURE`, and
    `enable_mm_embeds=True`. With `limit_mm_per_prompt={"image": 0, "video": 0}` it loads no vision tower; embeddings
    are not limited by it.

    Args:
        visual_tokens: Visual tokens of a validated prompt.
        merge_size: `vision_config.spatial_merge_size` of the checkpoint: side, in patches, of one visual token.
        dtype: Dtype of the embeddings; the compute dtype of the engine loses nothing.

    Returns:
        A payload for each modality that occurs; empty for a prompt of text only.
    """
    by_modality: dict[Modality, list[VisualTokens]] = {"image": [], "video": []}
    for tokens in visual_tokens:
        by_modality["video" if tokens.is_video else "image"].append(tokens)
    return {modality: _payload(modality, items, merge_size, dtype) for modality, items in by_modality.items() if items}


def _payload(modality: Modality, items: Sequence[VisualTokens], merge_size: int, dtype: torch.dtype) -> Payload:
    scale = np.array([1, merge_size, merge_size])
    payload = {
        f"{modality}_embeds": _tensor([np.hstack([tokens.features, *tokens.planes]) for tokens in items]).to(dtype),
        f"{modality}_grid_thw": torch.from_numpy(np.array([tokens.grid for tokens in items]) * scale),
        f"{modality}_num_tokens": torch.tensor([len(tokens.positions) for tokens in items]),
        f"{modality}_positions": _tensor([tokens.positions for tokens in items]),
    }
    # vLLM's default without the field is one second for each frame; unknown values get the same.
    if modality == "video":
        payload[SECONDS] = torch.tensor([tokens.seconds_per_frame or 1 for tokens in items], dtype=torch.float32)
    return payload


def _tensor(arrays: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
    """One tensor of arrays that follow each other."""
    joined = np.concatenate(arrays)
    # torch gives an array without entries strides of 0, which vLLM cannot send.
    return torch.from_numpy(joined) if joined.size else torch.from_numpy(joined).new_empty(joined.shape)
