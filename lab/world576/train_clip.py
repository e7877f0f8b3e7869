"""Training of the CLIP: image-level text supervision, and a patch head that warms up the trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.checkpoint import save_clip
from lab.clip_losses import multi_positive_loss, pair_loss, unmatched_offset_loss
from lab.models import build_clip
from lab.optimizer import MasterOptimizer, schedule
from lab.towers import embed_texts, normalize_images, tower_of, vision_states
from lab.world576.alignment import alignment_report
from lab.world576.captions import CONCEPTS, OF_COLORS, concept_text
from lab.world576.composition import Composer
from lab.world576.parts import adopt_weights
from lab.world576.patch_head import PatchHead, PatchTargets
from lab.world576.pool import Pool
from lab.world576.recipe import CLIP_MUON_RATE, CLIP_RATE, CURRICULUM_SHARE, MAX_TENSOR_BYTES, PATCH_HEAD_UNTIL, Recipe
from lab.world576.texts import CLIP_SHORT_LENGTH, clip_ids

_WORDINGS: Final = 8
_IGNORED: Final = -1e4  # logit of a pair that neither matches nor fails


class ClipTrainer:
    """CLIP, patch head and optimizer. See `lab.world576.loop.Trainer`.

    Args:
        recipe: sizes and rates.
        pool: training scenes.
        tokenizer: tokenizer of the text tower.
        composer: composer of the images, whose device is that of the training.
        seed: seed of weights and batches.
    """

    def __init__(
        self, recipe: Recipe, pool: Pool, tokenizer: PreTrainedTokenizerFast, composer: Composer, seed: int = 0
    ) -> None:
        self.recipe, self.pool, self.tokenizer, self.composer, self.seed = recipe, pool, tokenizer, composer, seed
        self.device = composer.device
        self.model = build_clip(tokenizer, seed, recipe.size).to(self.device, torch.bfloat16)
        self.head = PatchHead(recipe.size.vision_width).to(self.device, torch.bfloat16)
        named = list(self.model.named_parameters()) + [(f"head.{n}", p) for n, p in self.head.named_parameters()]
        matrices = [name for name, p in self.model.named_parameters() if p.dim() == 2 and ".encoder.layers." in name]
        self.optimizer = MasterOptimizer(named, matrices)
        rng = np.random.default_rng([seed, 4])
        texts = [concept_text(concept, rng) for concept in CONCEPTS for _ in range(_WORDINGS)]
        ids = clip_ids(tokenizer, texts, CLIP_SHORT_LENGTH)
        self._concept_ids = ids.reshape(len(CONCEPTS), _WORDINGS, CLIP_SHORT_LENGTH)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)

    def step(self, step: int, steps: int) -> dict[str, Tensor]:
        """One step; see `lab.world576.loop.Trainer`."""
        rng = np.random.default_rng([self.seed, 5, step])
        rows = self.pool.sample(self.recipe.clip_batch, step >= steps * CURRICULUM_SHARE, rng)
        chosen = np.sort(rng.choice(len(CONCEPTS), self.recipe.concepts, replace=False))
        wording = rng.integers(0, _WORDINGS, len(chosen))
        scenes = self.pool.scenes.select(rows)
        held = np.unpackbits(self.pool.concepts[rows], axis=1, count=len(CONCEPTS))[:, chosen].astype(bool)
        undecided = OF_COLORS[chosen] & ~self.pool.tinted[rows, None]
        targets = PatchTargets.from_arrays(
            self._tensor(self.pool.thing_of_patch[rows]),
            self._tensor(self.pool.things[rows]),
            torch.from_numpy(scenes.layers).to(self.device),
        )
        labels, ignored = torch.from_numpy(held).to(self.device), torch.from_numpy(undecided).to(self.device)
        fade = min(1.0, max(0.0, (0.9 - step / steps) / (0.9 - PATCH_HEAD_UNTIL)))
        short = embed_texts(self.model, self._tensor(self._concept_ids[chosen, wording]), self._eos)
        long = embed_texts(self.model, self._tensor(self.pool.captions[rows]), self._eos)
        tower = tower_of(self.model)
        second_last, last = vision_states(tower, normalize_images(self.composer(scenes)))
        pooled = self.model.visual_projection(tower.post_layernorm(last[:, 0]))
        image = functional.normalize(pooled.float(), dim=-1)
        scale = self.model.logit_scale.float().exp().clamp(max=100)
        cosines = image @ short.T
        logits = (cosines * scale).masked_fill(ignored, _IGNORED)
        weights = torch.ones((), device=self.device)
        to_text = multi_positive_loss(logits, labels, weights)
        to_image = multi_positive_loss(logits.T, labels.T, weights)
        pairs = pair_loss(image @ long.T * scale)
        offset = unmatched_offset_loss(cosines, labels | ignored)
        patch_loss, accuracy = self.head.loss(second_last[:, 1:], targets)
        loss = to_text + 0.5 * to_image + 0.5 * pairs + 5 * offset + fade * patch_loss
        loss.backward()
        factor = schedule(step, steps, warmup=min(150, 1 + steps // 10))
        self.optimizer.step(CLIP_RATE * factor, CLIP_MUON_RATE * factor)
        with torch.no_grad():
            unmatched = ~(labels | ignored)
            figures = {
                "positive": (cosines * labels).sum() / labels.sum().clamp(min=1),
                "unmatched": (cosines * unmatched).sum() / unmatched.sum(),
                "negative": (cosines < 0).float().mean(),
            }
        parts = {"text": to_text, "image": to_image, "pair": pairs, "patch": patch_loss}
        return parts | figures | {f"p.{name}": value for name, value in accuracy.items()}

    @property
    def _eos(self) -> int:
        eos: int = self.tokenizer.eos_token_id
        return eos

    def adopt(self, checkpoint: Path) -> None:
        """Takes over the weights of a checkpoint; the patch head begins afresh."""
        adopt_weights(self.optimizer, CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).state_dict())

    def save(self, checkpoint: Path) -> None:
        """Writes the checkpoint and prints the alignment of its maps."""
        scenes = self.recipe.alignment_scenes
        print(f"clip alignment {alignment_report(self.model, self.tokenizer, self.composer, scenes)}", flush=True)
        save_clip(self.model, self.tokenizer, checkpoint, torch.bfloat16, MAX_TENSOR_BYTES)
