"""Random dropping of visual tokens in training, which prepares the language model for pruned images.

A dropped token is merged into the most similar kept token by mean, as in the pruners. The choice is random, with higher
probability for some of the things. It does not depend on the question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DRAWN = 16  # random draws of an image; things beyond share them


def random_keep(thing_of_patch: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """Indices of kept patches, `[B, keep]`, ascending.

    Args:
        thing_of_patch: index of each patch's thing, -1 for background, `[B, N]`.
        keep: number of kept patches.
        generator: random generator.
    """
    batch = thing_of_patch.shape[0]
    favoured = torch.rand(batch, _DRAWN, generator=generator) < 0.5
    weight = torch.where(favoured, 2.5, 0.0)
    log_weight = torch.gather(weight, 1, thing_of_patch.long().clamp(min=0) % _DRAWN) * (thing_of_patch >= 0)
    noise = -torch.log(-torch.log(torch.rand(thing_of_patch.shape, generator=generator).clamp(1e-6, 1 - 1e-6)))
    return (log_weight + noise).topk(keep, dim=1).indices.sort(dim=1).values


def merge(features: Tensor, kept: Tensor) -> Tensor:
    """Kept tokens, `[B, K, width]`, each the mean of itself and the dropped tokens whose most similar kept token it is.

    Args:
        features: all tokens, `[B, N, width]`.
        kept: indices of the kept tokens, `[B, K]`.
    """
    wide = features.float()
    width = features.shape[-1]
    chosen = torch.gather(wide, 1, kept[..., None].expand(-1, -1, width))
    similarity = functional.normalize(wide, dim=-1) @ functional.normalize(chosen, dim=-1).mT
    target = similarity.argmax(-1)
    target.scatter_(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))
    assign = functional.one_hot(target, kept.shape[1]).float()
    return ((assign.mT @ wide) / assign.sum(1)[..., None]).to(features.dtype)
