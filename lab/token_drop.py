"""Random dropping of visual tokens in training, so that the language model has met short pictures.

What is dropped is merged into the most similar kept token by mean, as the pruners do; the choice is random, with a
leaning to some of the things, never to the question.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_keep(owners: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """Indices `[B, keep]`, ascending, of kept patches; `owners` `[B, 144]` names each patch's thing or -1."""
    batch = owners.shape[0]
    favoured = torch.rand(batch, 16, generator=generator) < 0.5
    weight = torch.where(favoured, 2.5, 0.0)
    log_weight = torch.gather(weight, 1, owners.long().clamp(min=0)) * (owners >= 0)
    noise = -torch.log(-torch.log(torch.rand(owners.shape, generator=generator).clamp(1e-6, 1 - 1e-6)))
    return (log_weight + noise).topk(keep, dim=1).indices.sort(dim=1).values


def merge(features: Tensor, kept: Tensor) -> Tensor:
    """Kept tokens `[B, K, width]`, each the mean of itself and the dropped ones most similar (cosine) to it."""
    wide = features.float()
    width = features.shape[-1]
    chosen = torch.gather(wide, 1, kept[..., None].expand(-1, -1, width))
    similarity = functional.normalize(wide, dim=-1) @ functional.normalize(chosen, dim=-1).mT
    target = similarity.argmax(-1)
    target.scatter_(1, kept, torch.arange(kept.shape[1]).expand_as(kept))
    assign = functional.one_hot(target, kept.shape[1]).float()
    return ((assign.mT @ wide) / assign.sum(1)[..., None]).to(features.dtype)
