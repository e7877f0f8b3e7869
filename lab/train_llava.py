"""Training of LLaVA's projector and Llama on the frozen tower's second-last layer.

Features of all training images are computed once. Every step has several questions and a caption request for each image
(`lab.packed`); the loss is on answers only. Runs are seeded and resumable like those of `lab.train_clip`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from lab import question_pool
from lab.checkpoint import save_llava
from lab.dataset import Dataset, load, training_split
from lab.models import SMALL_WORLD, adopt_vision_tower, build_llava
from lab.optimizer import MasterOptimizer, resume, save_state, schedule
from lab.packed import packed_hidden, packed_layer
from lab.question_pool import EXTRAS_PER_IMAGE, GROUP_NAMES, PER_IMAGE, SHORT_LENGTH, BlockEncoder, Blocks
from lab.questions import GROUPS, evaluation_questions
from lab.render import render_array
from lab.scenes import GRID
from lab.token_drop import merge, random_keep
from lab.tokenizers import PROMPT_HEAD
from lab.towers import normalize_pixels, tower_of, vision_states

STEPS = 6000
BATCH = 16
QUESTIONS = 16
# Weights of color, shape, existence, count, side, relation, reading and caption; late learned groups weigh more.
GROUP_WEIGHTS = np.array([0.3, 0.15, 1.0, 3.0, 0.5, 3.0, 0.5, 0.0])
EXTRA_QUESTIONS = 3
CURRICULUM_STEPS = 300
LEARNING_RATE = 3e-3
MUON_RATE = 0.02
DECAY_SHARE = 0.2
CAPTION_WEIGHT = 0.8
DROP_FROM, DROP_SHARE, DROP_KEEP = 0.5, 0.2, (16, 48)
VALIDATION_SEED = 500


@torch.no_grad()
def compute_features(clip: CLIPModel, images: np.ndarray, batch: int = 128) -> Tensor:
    """X[-2] of the patches, `[N, 144, width]` in bfloat16."""
    tower = tower_of(clip).bfloat16()
    parts = [
        vision_states(tower, normalize_pixels(images[i : i + batch]))[0][:, 1:] for i in range(0, len(images), batch)
    ]
    return torch.cat(parts)


def cache_features(clip: CLIPModel, data: Dataset, file: Path, chunk: int = 2000) -> np.ndarray:
    """Features of all training images, memory-mapped bfloat16 viewed as int16; computed when `file` is missing."""
    if not file.exists():
        partial = file.with_suffix(".partial.npy")
        shape = (len(data), GRID * GRID, SMALL_WORLD.vision_width)
        out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int16, shape=shape)
        for start in range(0, len(data), chunk):
            features = compute_features(clip, data.images[start : start + chunk])
            out[start : start + chunk] = features.view(torch.int16).numpy()
            print(f"features {min(start + chunk, len(data))}/{len(data)}", flush=True)
        partial.rename(file)
    cached: np.ndarray = np.load(file, mmap_mode="r")
    return cached


def answer_loss(
    model: LlavaForConditionalGeneration, hidden: Tensor, blocks: list[Tensor], spans: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """Weighted cross-entropy over answer tokens, and whether each block is answered right, `[B, Q]` per segment.

    Args:
        model: LLaVA with the output head.
        hidden: states of `packed_hidden`.
        blocks: ids of each segment's blocks, `[B, Q, L]`.
        spans: start and stop of the answers of each segment, `[B, Q]` each.
    """
    losses, weights, right = [], [], []
    begin = 0
    for ids, (start, stop) in zip(blocks, spans, strict=True):
        batch, count, length = ids.shape
        states = hidden[:, begin : begin + count * length].reshape(batch, count, length, -1)[:, :, :-1]
        begin += count * length
        position = torch.arange(1, length)
        answer = (position >= start[..., None]) & (position < stop[..., None])
        logits = model.lm_head(states[answer]).float()
        target = ids[:, :, 1:][answer]
        each = functional.cross_entropy(logits, target, reduction="none")
        weight = 1.0 if length == SHORT_LENGTH else CAPTION_WEIGHT
        losses.append(each.sum() * weight)
        weights.append(len(target) * weight)
        wrong = torch.zeros(answer.shape, dtype=torch.bool)
        wrong[answer] = logits.argmax(-1) != target
        right.append(~wrong.any(-1))
    return torch.stack(losses).sum() / sum(weights), right


class Validation:
    """Teacher-forced accuracy on held-out images of both splits, unpruned, per group."""

    def __init__(self, clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, num_scenes: int = 96) -> None:
        encode = BlockEncoder(tokenizer)
        self.parts = {}
        for split in ("easy", "crowded"):
            questions = evaluation_questions(split, VALIDATION_SEED, num_scenes, groups=GROUPS[:-1])
            seeds = sorted({q.scene.seed for q in questions})
            scenes = {q.scene.seed: q.scene for q in questions}
            features = compute_features(clip, np.stack([render_array(scenes[seed]) for seed in seeds]))
            rows = torch.tensor([seeds.index(q.scene.seed) for q in questions])
            self.parts[split] = (features, rows, encode.stack(questions, SHORT_LENGTH))

    @torch.no_grad()
    def __call__(self, model: LlavaForConditionalGeneration, head_ids: Tensor) -> str:
        """Line of text with the accuracy of each group on each split in percent."""
        words = []
        for split, (features, rows, blocks) in self.parts.items():
            right: dict[int, list[bool]] = defaultdict(list)
            for begin in range(0, len(rows), 64):
                part = slice(begin, begin + 64)
                ids = torch.from_numpy(blocks.ids[part].astype(np.int64))[:, None]
                hidden = packed_hidden(model, features[rows[part]], head_ids, [ids])
                span = (torch.from_numpy(blocks.start[part])[:, None], torch.from_numpy(blocks.stop[part])[:, None])
                answered = answer_loss(model, hidden, [ids], [span])[1][0][:, 0]
                for group, ok in zip(blocks.group[part], answered.tolist(), strict=True):
                    right[int(group)].append(ok)
            each = {GROUPS[g]: 100 * sum(oks) / len(oks) for g, oks in sorted(right.items())}
            words.append(f"{split}: " + " ".join(f"{name}={value:.0f}" for name, value in each.items()))
            words.append(f"mean={sum(each.values()) / len(each):.1f}")
        return " ".join(words)


def _sample_images(step: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of the images of a step, `[BATCH]`, ascending; no crowded ones at first."""
    index = rng.integers(0, count - 12, BATCH)
    if step < CURRICULUM_STEPS:
        index = np.array(
            [i - i % 12 + int(rng.choice([0, 1, 3, 5])) if training_split(int(i)) == "crowded" else i for i in index]
        )
    return np.sort(index)


def _questions(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the blocks of a step for one image: some of its short blocks, and a few of the extras.

    Args:
        groups: group of each short block of the image, `[PER_IMAGE]`.
        rng: random generator.
    """
    weights = GROUP_WEIGHTS[groups]
    picked = rng.choice(PER_IMAGE, QUESTIONS, replace=False, p=weights / weights.sum())
    return np.concatenate([picked, PER_IMAGE + rng.choice(EXTRAS_PER_IMAGE, EXTRA_QUESTIONS, replace=False)])


def _blocks(
    short: Blocks, captions: Blocks, index: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Groups of the short blocks, `[B, Q]`, and ids and answer spans of both segments, for the images `index` `[B]`."""
    picked = np.stack([_questions(short.group[i, :PER_IMAGE], rng) for i in index])
    rows = index[:, None]
    ids = [short.ids[rows, picked], captions.ids[index][:, None]]
    starts = [short.start[rows, picked], captions.start[index][:, None]]
    stops = [short.stop[rows, picked], captions.stop[index][:, None]]
    spans = [(torch.from_numpy(start), torch.from_numpy(stop)) for start, stop in zip(starts, stops, strict=True)]
    return short.group[rows, picked], [torch.from_numpy(part.astype(np.int64)) for part in ids], spans


def train(
    work: Path,
    out: Path,
    clip: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    seed: int = 0,
    compile_model: bool = True,
) -> LlavaForConditionalGeneration:
    """Trains on `work / "data"` and returns the model, which is also written to `out / "llava"` at each save.

    Args:
        work: folder with the data, the features and the state, `llava.pt`.
        out: folder of the checkpoints.
        clip: trained CLIP, whose vision tower is frozen.
        tokenizer: tokenizer of the Llama.
        steps: steps of the whole run.
        seed: seed of weights and batches.
        compile_model: whether to compile the layers.
    """
    data = load(work / "data")
    short, captions = question_pool.load(work / "data")
    features = cache_features(clip, data, work / "features.npy")
    validate = Validation(clip, tokenizer)
    model = build_llava(tokenizer, seed).bfloat16()
    trained = [(n, p) for n, p in model.named_parameters() if "vision_tower" not in n]
    muon = [n for n, p in trained if p.dim() == 2 and "embed_tokens" not in n and "lm_head" not in n]
    optimizer = MasterOptimizer(trained, muon)
    state_file = work / "llava.pt"
    step = resume(state_file, optimizer)
    layer: Callable[..., Tensor] = torch.compile(packed_layer, dynamic=False) if compile_model else packed_layer
    head_ids = torch.tensor(tokenizer(PROMPT_HEAD, add_special_tokens=False)["input_ids"])
    right: dict[str, list[float]] = defaultdict(list)
    began, losses = time.time(), []
    while step < steps:
        rng = np.random.default_rng([seed, 6, step])
        index = _sample_images(step, len(data), rng)
        groups, blocks, spans = _blocks(short, captions, index, rng)
        visual = torch.from_numpy(features[index]).view(torch.bfloat16)
        dropped = step > steps * DROP_FROM and rng.random() < DROP_SHARE
        if dropped:
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            thing_of_patch = torch.from_numpy(data.thing_of_patch[index])
            visual = merge(visual, random_keep(thing_of_patch, int(rng.choice(DROP_KEEP)), generator))
        hidden = packed_hidden(model, visual, head_ids, blocks, layer)
        loss, answered = answer_loss(model, hidden, blocks, spans)
        loss.backward()
        factor = schedule(step, steps, decay_share=DECAY_SHARE)
        optimizer.step(LEARNING_RATE * factor, MUON_RATE * factor)
        step += 1
        if not dropped:
            losses.append(loss.item())
            for group, ok in zip(groups.ravel(), answered[0].flatten().tolist(), strict=True):
                right[GROUP_NAMES[group]].append(ok)
            right["caption"] += answered[1].flatten().tolist()
        if step % 50 == 0 or step in (5, 20):
            line = " ".join(f"{name}={100 * np.mean(oks):.0f}" for name, oks in sorted(right.items()))
            print(f"{step} {time.time() - began:.0f}s loss={np.mean(losses):.3f} {line}", flush=True)
            right.clear()
            losses.clear()
        if step % 250 == 0 or step == steps:
            save_state(state_file, optimizer, step)
            print(f"{step} {time.time() - began:.0f}s validation {validate(model, head_ids)}", flush=True)
            full = _assemble(optimizer, out, tokenizer, seed)
            save_llava(full, tokenizer, out / "llava")
    return _assemble(optimizer, out, tokenizer, seed)


def _assemble(
    optimizer: MasterOptimizer, out: Path, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlavaForConditionalGeneration:
    """A float32 LLaVA from the optimizer's masters and CLIP's tower of the checkpoint `out / "clip"`."""
    model = build_llava(tokenizer, seed)
    model.load_state_dict(optimizer.masters, strict=False)
    adopt_vision_tower(model, CLIPModel.from_pretrained(out / "clip", dtype=torch.float32))
    return model
