"""Training of the small CLIP: image-level text supervision, and a patch head that warms up the trunk.

The batch of a step depends on the seed and the step only. The state is saved every few hundred steps, and a run resumes
from it.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.captions import CONCEPTS, composite_caption, concept_text, concept_weights
from lab.checkpoint import save_clip
from lab.clip_losses import PatchHead, PatchTargets, multi_positive_loss, pair_loss, unmatched_offset_loss
from lab.dataset import Dataset, load, training_split
from lab.decoupled import alignment_report
from lab.models import SMALL_WORLD, build_clip
from lab.offset import add_positive_offset
from lab.optimizer import MasterOptimizer, resume, save_state, schedule
from lab.towers import encode_texts, normalize_pixels, tower_of, vision_states

STEPS = 3000
BATCH = 64
CONCEPTS_PER_STEP = 160
CURRICULUM_STEPS = 400
LEARNING_RATE = 1.5e-3
MUON_RATE = 0.012
PATCH_HEAD_UNTIL = 0.5  # share of the run after which the patch head's weight decreases, to 0 at 0.9


def _batch(data: Dataset, step: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng([seed, 5, step])
    index = rng.integers(0, len(data), BATCH)
    if step < CURRICULUM_STEPS:  # few and mostly large things at first
        index = np.array(
            [i if training_split(int(i)) != "crowded" else i - i % 12 + rng.choice([0, 1, 3, 5]) for i in index]
        )
    return np.sort(np.minimum(index, len(data) - 1)), rng


def _muon_names(model: CLIPModel) -> list[str]:
    return [name for name, p in model.named_parameters() if p.dim() == 2 and ".encoder.layers." in name]


def train(
    work: Path, out: Path, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int = 0, compile_model: bool = True
) -> CLIPModel:
    """Trains on `work / "data"` and returns the model, which is written to `out / "clip"`.

    Args:
        work: folder with the data and the state, `clip.pt`.
        out: folder of the checkpoints.
        tokenizer: tokenizer of the text tower.
        steps: steps of the whole run.
        seed: seed of weights and batches.
        compile_model: whether to compile the vision tower.
    """
    data = load(work / "data")
    model = build_clip(tokenizer, seed)
    head = PatchHead(SMALL_WORLD.vision_width)
    model.bfloat16()
    head.bfloat16()
    named = list(model.named_parameters()) + [(f"head.{name}", p) for name, p in head.named_parameters()]
    optimizer = MasterOptimizer(named, _muon_names(model))
    state_file = work / "clip.pt"
    step = resume(state_file, optimizer)
    tower = tower_of(model)
    states = torch.compile(vision_states, dynamic=False) if compile_model else vision_states
    sums: Counter[str] = Counter()
    began = time.time()
    while step < steps:
        index, rng = _batch(data, step, seed)
        chosen = np.sort(rng.choice(len(CONCEPTS), CONCEPTS_PER_STEP, replace=False))
        texts = [concept_text(CONCEPTS[i], rng) for i in chosen]
        captions = [composite_caption(data.scenes[i], rng) for i in index]
        short, long = encode_texts(model, tokenizer, texts), encode_texts(model, tokenizer, captions)
        second_last, last = states(tower, normalize_pixels(data.images[index]))
        pooled = model.visual_projection(tower.post_layernorm(last[:, 0]))
        image = torch.nn.functional.normalize(pooled.float(), dim=-1)
        scale = model.logit_scale.float().exp().clamp(max=100)
        labels = torch.from_numpy(data.concepts[index][:, chosen])
        crowded = np.array([data.scenes[i].split == "crowded" for i in index])
        weights = torch.from_numpy(concept_weights(crowded)[:, chosen])
        cosines = image @ short.T
        to_text = multi_positive_loss(cosines * scale, labels, weights)
        to_image = multi_positive_loss(cosines.T * scale, labels.T, weights.T)
        pairs = pair_loss(image @ long.T * scale)
        offset = unmatched_offset_loss(cosines, labels)
        share = step / steps
        fade = min(1.0, max(0.0, (0.9 - share) / (0.9 - PATCH_HEAD_UNTIL)))
        targets = PatchTargets.from_arrays(
            torch.from_numpy(data.thing_of_patch[index].astype(np.int64)), torch.from_numpy(data.things[index])
        )
        patch_loss, accuracy = head.loss(second_last[:, 1:], targets)
        loss = to_text + 0.5 * to_image + 0.5 * pairs + 5 * offset + fade * patch_loss
        loss.backward()
        factor = schedule(step, steps)
        optimizer.step(LEARNING_RATE * factor, MUON_RATE * factor)
        step += 1
        positive = cosines.detach()[labels].mean().item()
        negative = cosines.detach()[~labels].mean().item()
        sums.update(
            {"n": 1, "text": to_text.item(), "image": to_image.item(), "pair": pairs.item(), "patch": patch_loss.item()}
        )
        sums.update({"pos": positive, "neg": negative} | {f"p.{key}": value for key, value in accuracy.items()})
        if step % 50 == 0 or step in (5, 20):
            n = sums.pop("n")
            line = " ".join(f"{key}={value / n:.3f}" for key, value in sums.items())
            print(f"{step} {time.time() - began:.0f}s fade={fade:.2f} scale={scale.item():.1f} {line}", flush=True)
            sums.clear()
        if step % 500 == 0 or step == steps:
            save_state(state_file, optimizer, step)
            with torch.no_grad():
                print(f"{step} alignment {alignment_report(model, tokenizer)}", flush=True)
    return finish(optimizer, data, tokenizer, out)


@torch.no_grad()
def finish(optimizer: MasterOptimizer, data: Dataset, tokenizer: PreTrainedTokenizerFast, out: Path) -> CLIPModel:
    """Float32 model of the optimizer's masters with the positive offset, written to `out / "clip"`."""
    model = build_clip(tokenizer).eval()
    own = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in optimizer.masters.items() if name in own}, strict=False)
    tower = tower_of(model)
    _, last = vision_states(tower, normalize_pixels(data.images[:256]).float())
    add_positive_offset(model, tokenizer, model.visual_projection(tower.post_layernorm(last[:, 0])))
    print(f"final alignment {alignment_report(model, tokenizer)}", flush=True)
    save_clip(model, tokenizer, out / "clip")
    return model
