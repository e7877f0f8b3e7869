"""What the plugin is handed instead of pictures and videos: the kept visual tokens, and where they stood.

Beside vLLM's own fields for embeddings there are two more. For `image` (and likewise `video`), n pictures of
K_1 ... K_n kept tokens:

    image_embeds       [K_1 + ... + K_n, H]  as wide as the language model, picture after picture
    image_grid_thw     [n, 3] int64          frames, rows and columns of each *unpruned* grid, in patches before merging
    image_num_tokens   [n] int64             K_i
    image_positions    [K_1 + ... + K_n]     int64: where in the merged grid each token stood, counted frame by frame,
                                             row by row
    second_per_grid_ts [n] float32           videos only: seconds from one frame of the grid to the next
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch

from llm_service.prompts import VisualTokens

__all__ = ["MODALITIES", "SECONDS", "Modality", "Payload", "multi_modal_data"]

Modality = Literal["image", "video"]
Payload = dict[str, torch.Tensor]

MODALITIES: Final[tuple[Modality, ...]] = ("image", "video")

# vLLM's own name, with which nothing says that it is about videos.
SECONDS: Final = "second_per_grid_ts"


def multi_modal_data(
    visual_tokens: Sequence[VisualTokens], *, merge_size: int, dtype: torch.dtype
) -> dict[Modality, Payload]:
    """`multi_modal_data` of a vLLM prompt, pruned or whole.

    The prompt has *one* image or video token for each, in the same order; vLLM repeats them:

        {"prompt_token_ids": prompt.input_ids.tolist(),
         "multi_modal_data": multi_modal_data(prompt.visual_tokens, merge_size=2, dtype=torch.bfloat16)}

    The engine runs with `hf_overrides={"architectures": [ARCHITECTURE]}`, `enable_mm_embeds=True` and, so that no
    vision tower is loaded, `limit_mm_per_prompt={"image": 0, "video": 0}` (of embeddings it then takes any number).

    Args:
        visual_tokens: Of a checked prompt.
        merge_size: `vision_config.spatial_merge_size` of the checkpoint: patches on a side of what becomes one token.
        dtype: In which features travel to the engine; that in which it computes is enough.

    Returns:
        A payload for each modality that occurs; empty for a prompt of text alone.
    """
    by_modality: dict[Modality, list[VisualTokens]] = {"image": [], "video": []}
    for tokens in visual_tokens:
        by_modality["video" if tokens.is_video else "image"].append(tokens)
    return {modality: _payload(modality, some, merge_size, dtype) for modality, some in by_modality.items() if some}


def _payload(modality: Modality, some: Sequence[VisualTokens], merge_size: int, dtype: torch.dtype) -> Payload:
    scale = np.array([1, merge_size, merge_size])
    payload = {
        f"{modality}_embeds": torch.from_numpy(np.concatenate([tokens.features for tokens in some])).to(dtype),
        f"{modality}_grid_thw": torch.from_numpy(np.array([tokens.grid for tokens in some]) * scale),
        f"{modality}_num_tokens": torch.tensor([len(tokens.positions) for tokens in some]),
        f"{modality}_positions": torch.from_numpy(np.concatenate([tokens.positions for tokens in some])),
    }
    # Without the field vLLM counts a second a frame, as we do where it is not known.
    if modality == "video":
        payload[SECONDS] = torch.tensor([tokens.seconds_per_frame or 1 for tokens in some], dtype=torch.float32)
    return payload
