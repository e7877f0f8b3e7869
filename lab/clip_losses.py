"""Losses of CLIP's training: images against texts, and a patch head that warms up the trunk.

The patch head reads the second-last layer and is not part of the checkpoint. It uses no text, and the last layer's
attention, on which the pruner's decoupled branch is built, gets no gradient from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lab.dataset import ALL_LOOKS, ALL_SHAPES
from lab.scenes import GRID, LETTERS, PATCH_SIZE

BACKGROUND_WEIGHT = 0.15
UNMATCHED_COSINE = 0.12


def multi_positive_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of each positive's softmax loss against all negatives of its row.

    Other positives are not in the denominator, since an image of ten things matches forty phrases at once.

    Args:
        logits: logits, `[rows, columns]`.
        labels: whether each pair is a positive, `[rows, columns]`.
        weights: weight of each positive, broadcastable to `[rows, columns]`.
    """
    negatives = logits.masked_fill(labels, float("-inf")).logsumexp(dim=1, keepdim=True)
    losses = functional.softplus(negatives - logits)
    weight = weights * labels
    per_row = (losses * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
    matched = labels.any(1)
    return (per_row * matched).sum() / matched.sum().clamp(min=1)


def unmatched_offset_loss(cosines: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of the mean cosine of unmatched pairs from +0.12, its value in OpenAI's CLIP.

    A softmax is invariant to a shift of all cosines. Without this loss they may drift below zero, and a score that
    multiplies two cosines would then rank the least relevant patches first.
    """
    unmatched = ~labels
    mean = (cosines * unmatched).sum() / unmatched.sum()
    return (mean - UNMATCHED_COSINE).square()


def pair_loss(logits: Tensor) -> Tensor:
    """Symmetric InfoNCE of `[n, n]` logits whose diagonal matches."""
    target = torch.arange(logits.shape[0], device=logits.device)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@dataclass(frozen=True)
class PatchTargets:
    """Content of each patch, `[B, 144]` each; classes count from 0, with background (or "no letter") last."""

    shape: Tensor
    look: Tensor
    letter: Tensor
    offset: Tensor  # vector from the patch to the centre of its thing in patches, [B, 144, 2]
    centre: Tensor  # 1.0 where the patch contains the centre of its thing
    thing: Tensor  # whether the patch belongs to a thing

    @classmethod
    def from_arrays(cls, thing_of_patch: Tensor, things: Tensor) -> PatchTargets:
        """From a dataset's `thing_of_patch` `[B, 144]` and `things` `[B, 14, 6]`."""
        is_thing = thing_of_patch >= 0
        fields = torch.gather(
            things.long(), 1, thing_of_patch.long().clamp(min=0)[..., None].expand(-1, -1, things.shape[2])
        )
        shape = fields[..., 0].masked_fill(~is_thing, len(ALL_SHAPES))
        look = fields[..., 1].masked_fill(~is_thing, len(ALL_LOOKS))
        letter = fields[..., 2].masked_fill(~is_thing, len(LETTERS))
        index = torch.arange(GRID * GRID)
        middle = torch.stack([index % GRID, index // GRID], dim=-1).float() + 0.5
        offset = fields[..., 3:5].float() / PATCH_SIZE - middle
        centre = (offset.abs().amax(-1) <= 0.5) & is_thing
        return cls(shape, look, letter, offset, centre.float(), is_thing)


def classify(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the cross-entropy of patches: `[B, N, classes]` logits, `[B, N]` labels and weights."""
    each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


class ReadOuts(nn.Module):
    """Linear read-outs of a patch.

    Args:
        width: width of a patch.
        sizes: number of values of each read-out.
    """

    def __init__(self, width: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes
        self.linear = nn.Linear(width, sum(sizes))

    def forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        """`[B, N, width]` to one float32 tensor per read-out."""
        logits: Tensor = self.linear(patches).float()
        parts: tuple[Tensor, ...] = logits.split(self.sizes, dim=-1)
        return parts


class PatchHead(ReadOuts):
    """Linear classifier of a patch's shape, look, letter, offset and centre, and of its row and column."""

    def __init__(self, width: int) -> None:
        super().__init__(width, (len(ALL_SHAPES) + 1, len(ALL_LOOKS) + 1, len(LETTERS) + 1, 2, 1, GRID, GRID))

    def loss(self, patches: Tensor, targets: PatchTargets) -> tuple[Tensor, dict[str, float]]:
        """Loss, and accuracy of each read-out over the patches of things."""
        shape, look, letter, offset, centre, row, column = self(patches)
        thing = targets.thing
        weight = torch.where(thing, 1.0, BACKGROUND_WEIGHT)
        index = torch.arange(GRID * GRID).expand(thing.shape)

        loss = classify(shape, targets.shape, weight) + classify(look, targets.look, weight)
        loss = loss + classify(letter, targets.letter, thing.float())
        loss = (
            loss
            + (functional.smooth_l1_loss(offset, targets.offset, reduction="none").mean(-1) * thing).sum() / thing.sum()
        )
        loss = loss + functional.binary_cross_entropy_with_logits(centre[..., 0], targets.centre) * 3
        loss = loss + 0.25 * (classify(row, index // GRID, weight) + classify(column, index % GRID, weight))
        lettered = thing & (targets.letter < len(LETTERS))
        with torch.no_grad():
            accuracy = {
                "shape": (shape.argmax(-1) == targets.shape)[thing].float().mean().item(),
                "look": (look.argmax(-1) == targets.look)[thing].float().mean().item(),
                "letter": (letter.argmax(-1) == targets.letter)[lettered].float().mean().item(),
                "offset": (offset - targets.offset).abs()[thing].mean().item(),
                "centre": ((centre[..., 0] > 0) == (targets.centre > 0))[thing].float().mean().item(),
                "row": (row.argmax(-1) == index // GRID).float().mean().item(),
            }
        return loss, accuracy
