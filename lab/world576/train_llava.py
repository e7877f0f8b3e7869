"""Training of the LLaVA's projector and Llama on the frozen tower's second-last layer.

Every step has several questions, a dialogue and a description for each image (`lab.packed`). The loss is on answers
only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lab.checkpoint import save_llava
from lab.models import adopt_vision_tower, build_llava
from lab.optimizer import MasterOptimizer, schedule
from lab.packed import packed_hidden
from lab.token_drop import merge, random_keep
from lab.tokenizers import PROMPT_HEAD
from lab.towers import normalize_images, tower_of, vision_states
from lab.world576.composition import Composer
from lab.world576.parts import adopt_weights
from lab.world576.pool import GROUP_NAMES, PER_SCENE, Pool
from lab.world576.recipe import (
    CAPTION_WEIGHT,
    CURRICULUM_SHARE,
    DROP_FROM,
    DROP_KEEP,
    DROP_SHARE,
    LLAVA_MUON_RATE,
    LLAVA_RATE,
    MAX_TENSOR_BYTES,
    Recipe,
)

# Weights with which a step picks among the questions of an image; groups that are learned late weigh more.
_GROUP_WEIGHTS = dict.fromkeys(GROUP_NAMES, 1.0) | {"color": 0.5, "kind": 0.7, "count": 2.0, "relation": 2.0}
_WEIGHTS = np.array(list(_GROUP_WEIGHTS.values()))


def answer_loss(lm_head: torch.nn.Module, states: Tensor, ids: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answer tokens, and whether all of a block's are right, `[B, Q]`.

    Args:
        lm_head: output head.
        states: states of the blocks, `[B, Q * L, width]`.
        ids: ids of the blocks, `[B, Q, L]`.
        answers: whether each token belongs to an answer, `[B, Q, L]`.
    """
    logits = lm_head(states.view(*ids.shape, -1)[:, :, :-1]).float()
    target, asked = ids[:, :, 1:], answers[:, :, 1:]
    each = functional.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
    loss = (each * asked).sum() / asked.sum().clamp(min=1)
    right = ((logits.argmax(-1) == target) | ~asked).all(-1)
    return loss, right


class LlavaTrainer:
    """LLaVA on a frozen tower, and optimizer. See `lab.world576.loop.Trainer`.

    Args:
        recipe: sizes and rates.
        pool: training scenes.
        clip: trained CLIP.
        tokenizer: tokenizer of the language model.
        composer: composer of the images, whose device is that of the training.
        seed: seed of weights and batches.
    """

    def __init__(
        self,
        recipe: Recipe,
        pool: Pool,
        clip: CLIPModel,
        tokenizer: PreTrainedTokenizerFast,
        composer: Composer,
        seed: int = 0,
    ) -> None:
        self.recipe, self.pool, self.tokenizer, self.composer, self.seed = recipe, pool, tokenizer, composer, seed
        self.device = composer.device
        self._clip = clip
        self._tower = tower_of(clip).to(self.device, torch.bfloat16)
        self.model = build_llava(tokenizer, seed, recipe.size).to(self.device, torch.bfloat16)
        trained = [(name, p) for name, p in self.model.named_parameters() if "vision_tower" not in name]
        muon = [n for n, p in trained if p.dim() == 2 and "embed_tokens" not in n and "lm_head" not in n]
        self.optimizer = MasterOptimizer(trained, muon)
        head = tokenizer(PROMPT_HEAD, add_special_tokens=False)["input_ids"]
        self._head_ids = torch.tensor(head, device=self.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)

    def _mask(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    @torch.no_grad()
    def _features(self, rows: np.ndarray) -> Tensor:
        """X[-2] of the patches of composed images, `[B, 576, width]` in bfloat16."""
        images = self.composer(self.pool.scenes.select(rows))
        return vision_states(self._tower, normalize_images(images))[0][:, 1:]

    def _dropped(self, features: Tensor, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """A random subset of the tokens, the others merged into them."""
        thing_of_patch = torch.from_numpy(self.pool.thing_of_patch[rows])
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        kept = random_keep(thing_of_patch, int(rng.choice(DROP_KEEP)), generator).to(self.device)
        return merge(features, kept)

    def _questions(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Indices of some questions of each image, `[B, recipe.questions]`."""
        picked = []
        for groups in self.pool.short_groups[rows]:
            weights = _WEIGHTS[groups]
            picked.append(rng.choice(PER_SCENE, self.recipe.questions, replace=False, p=weights / weights.sum()))
        return np.stack(picked)

    def step(self, step: int, steps: int) -> dict[str, Tensor]:
        """One step; see `lab.world576.loop.Trainer`."""
        pool = self.pool
        rng = np.random.default_rng([self.seed, 6, step])
        rows = pool.sample(self.recipe.llava_batch, step >= steps * CURRICULUM_SHARE, rng)
        picked = self._questions(rows, rng)
        features = self._features(rows)
        if step >= steps * DROP_FROM and rng.random() < DROP_SHARE:
            features = self._dropped(features, rows, rng)
        at = rows[:, None], picked
        ids = [self._tensor(part) for part in (pool.short[at], pool.dialogue[rows], pool.caption[rows])]
        answered = (pool.short_answers[at], pool.dialogue_answers[rows], pool.caption_answers[rows])
        answers = [self._mask(part) for part in answered]
        hidden = packed_hidden(self.model, features, self._head_ids, ids)
        lengths = [part.shape[1] * part.shape[2] for part in ids]
        results = [
            answer_loss(self.model.lm_head, *segment)
            for segment in zip(hidden.split(lengths, dim=1), ids, answers, strict=True)
        ]
        (short, right), (dialogue, right_dialogue), (caption, right_caption) = results
        loss = short + 0.3 * dialogue + CAPTION_WEIGHT * caption
        loss.backward()
        factor = schedule(step, steps, warmup=min(150, 1 + steps // 10), decay_share=0.2)
        self.optimizer.step(LLAVA_RATE * factor, LLAVA_MUON_RATE * factor)
        groups = self._tensor(pool.short_groups[at])
        figures = {"loss": loss.detach(), "described": right_caption.float().mean()}
        figures |= {"dialogue/sum": right_dialogue.sum(), "dialogue/n": torch.tensor(right_dialogue.numel())}
        for index, name in enumerate(GROUP_NAMES[:-1]):
            if name != "caption":
                of_group = groups == index
                figures |= {f"{name}/sum": (right & of_group).sum(), f"{name}/n": of_group.sum()}
        return figures

    def adopt(self, checkpoint: Path) -> None:
        """Takes over the weights of a checkpoint."""
        loaded = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        adopt_weights(self.optimizer, loaded.state_dict())

    def save(self, checkpoint: Path) -> None:
        """Writes the checkpoint with CLIP's tower, last layer included."""
        adopt_vision_tower(self.model, self._clip)
        save_llava(self.model, self.tokenizer, checkpoint, torch.bfloat16, MAX_TENSOR_BYTES)
