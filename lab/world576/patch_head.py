"""Patch head that warms up the trunk of CLIP. It is not part of the checkpoint.

It reads the patches of the second-last layer and uses no text. The last layer's attention, on which the decoupled
branch of pruners is built, gets no gradient from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lab.clip_losses import BACKGROUND_WEIGHT, ReadOuts, classify
from lab.world576.atlas import SPRITE_INDEX
from lab.world576.kinds import COLORS, GLYPHS
from lab.world576.pool import ALL_KINDS
from lab.world576.scenes import GRID, NUM_PATCHES, PATCH_SIZE

_FIRST_GLYPH = SPRITE_INDEX[f"glyph {GLYPHS[0]}"]


@dataclass(frozen=True)
class PatchTargets:
    """Content of each patch, `[B, 576]` each; classes count from 0, with background (or "no glyph") last."""

    kind: Tensor
    look: Tensor
    glyph: Tensor  # the glyph whose centre is in the patch
    offset: Tensor  # vector from the patch to the centre of its thing in patches, [B, 576, 2]
    thing: Tensor  # whether the patch shows a thing

    @classmethod
    def from_arrays(cls, thing_of_patch: Tensor, things: Tensor, layers: Tensor) -> PatchTargets:
        """From `thing_of_patch` `[B, 576]` and `things` `[B, 20, 4]` of a pool, and its layers `[B, L, 12]`."""
        thing = thing_of_patch >= 0
        index = thing_of_patch.long().clamp(min=0)
        fields = torch.gather(things.long(), 1, index[..., None].expand(-1, -1, things.shape[2]))
        kind = fields[..., 0].masked_fill(~thing, len(ALL_KINDS))
        look = fields[..., 1].masked_fill(~thing, len(COLORS) + 1)
        patch = torch.arange(NUM_PATCHES, device=things.device)
        middle = torch.stack([patch % GRID, patch // GRID], dim=-1).float() + 0.5
        offset = fields[..., 2:4].float() / PATCH_SIZE - middle
        sprite = layers[..., 0].long()
        is_glyph = sprite >= _FIRST_GLYPH
        cell = (layers[..., 3] / PATCH_SIZE).long() * GRID + (layers[..., 2] / PATCH_SIZE).long()
        # Layers that are no glyphs are written to a column beyond the last patch, which is cut off.
        cell = torch.where(is_glyph, cell.clamp(0, NUM_PATCHES - 1), NUM_PATCHES)
        glyph = torch.full((len(layers), NUM_PATCHES + 1), len(GLYPHS), dtype=torch.int64, device=things.device)
        glyph = glyph.scatter(1, cell, sprite - _FIRST_GLYPH)[:, :NUM_PATCHES]
        return cls(kind, look, glyph, offset, thing)


class PatchHead(ReadOuts):
    """Linear classifier of a patch's kind, look, glyph and offset, and of its row and column."""

    def __init__(self, width: int) -> None:
        super().__init__(width, (len(ALL_KINDS) + 1, len(COLORS) + 2, len(GLYPHS) + 1, 2, GRID, GRID))

    def loss(self, patches: Tensor, targets: PatchTargets) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, and accuracy of kind, look and glyph over the patches that show one."""
        kind, look, glyph, offset, row, column = self(patches)
        weight = torch.where(targets.thing, 1.0, BACKGROUND_WEIGHT)
        lettered = targets.glyph < len(GLYPHS)
        patch = torch.arange(NUM_PATCHES, device=patches.device).expand(weight.shape)

        loss = classify(kind, targets.kind, weight) + classify(look, targets.look, weight)
        loss = loss + classify(glyph, targets.glyph, torch.where(lettered, 1.0, 0.02))
        distance = functional.smooth_l1_loss(offset, targets.offset, reduction="none").mean(-1)
        loss = loss + (distance * targets.thing).sum() / targets.thing.sum().clamp(min=1)
        loss = loss + 0.25 * (classify(row, patch // GRID, weight) + classify(column, patch % GRID, weight))

        def accuracy(logits: Tensor, labels: Tensor, where: Tensor) -> Tensor:
            return ((logits.argmax(-1) == labels) & where).sum() / where.sum().clamp(min=1)

        with torch.no_grad():
            shown = {
                "kind": accuracy(kind, targets.kind, targets.thing),
                "look": accuracy(look, targets.look, targets.thing),
                "glyph": accuracy(glyph, targets.glyph, lettered),
            }
        return loss, shown
