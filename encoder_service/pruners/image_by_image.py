"""Pruning image by image, for methods whose number of tokens depends on the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from encoder_service.pruners.base import PrunedTokens, PrunerInput

__all__ = ["image_by_image"]


def image_by_image(prune: Callable[[PrunerInput], PrunedTokens], inputs: PrunerInput) -> PrunedTokens:
    """Tokens of a batch from a function that prunes one tower input, whose tensors have no batch axis."""
    if inputs.vision.hidden.dim() == 2:
        return prune(inputs)
    pruned = [prune(_image(inputs, i)) for i in range(inputs.vision.num_inputs)]
    counts = [len(tokens.origins) for tokens in pruned]
    most = max(counts)

    def stacked(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack([pad(part, (0, most - len(part))) for part in parts])

    def padded(vectors: Tensor) -> Tensor:
        return pad(vectors, (0, 0, 0, most - vectors.shape[-2]))

    def maps(parts: Sequence[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.stack(known) if known else None

    groups = [tokens.reading_group for tokens in pruned if tokens.reading_group is not None]
    planes = [padded(tokens.planes) for tokens in pruned if tokens.planes is not None]
    return PrunedTokens(
        features=torch.stack([padded(tokens.features) for tokens in pruned]),
        origins=stacked([tokens.origins for tokens in pruned]),
        cluster_of_patch=torch.stack([tokens.cluster_of_patch for tokens in pruned]),
        task_map=maps([tokens.task_map for tokens in pruned]),
        saliency_map=maps([tokens.saliency_map for tokens in pruned]),
        reading_group=stacked(groups) if groups else None,
        counts=counts,
        planes=torch.stack(planes) if planes else None,
    )


def _image(inputs: PrunerInput, index: int) -> PrunerInput:
    text = None if inputs.text is None else inputs.text.take(torch.tensor(index))
    return PrunerInput(inputs.vision.at(index), inputs.keep, text, inputs.seeds[index : index + 1])
