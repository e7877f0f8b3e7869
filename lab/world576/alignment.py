"""Diagnosis of the CLIP's decoupled maps: their sign, and whether they find the object that is asked about."""

from __future__ import annotations

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.decoupled import last_layer_maps
from lab.towers import embed_texts, normalize_images, tower_of, vision_states
from lab.world576.composition import Composer, pack
from lab.world576.questions import evaluation_questions
from lab.world576.scenes import thing_of_patch
from lab.world576.texts import CLIP_SHORT_LENGTH, clip_ids

_SEED = 900
_BEST = 8


@torch.no_grad()
def alignment_report(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, composer: Composer, num_scenes: int
) -> dict[str, float]:
    """Figures over questions about the side of an object in crowded evaluation scenes.

    `negative` is the share of patches whose decoupled feature has a negative cosine with the question, `alpha` the mean
    cosine, `found` the share of the eight best patches that show the object, and `chance` that of all patches.
    """
    questions = evaluation_questions("crowded", _SEED, num_scenes, groups=["side"])
    dtype = model.visual_projection.weight.dtype
    pixels = normalize_images(composer(pack([question.scene for question in questions]))).to(dtype)
    second_last, _ = vision_states(tower_of(model), pixels)
    decoupled, _ = last_layer_maps(tower_of(model), model.visual_projection, second_last)
    ids = clip_ids(tokenizer, [question.text for question in questions], CLIP_SHORT_LENGTH).astype(np.int64)
    texts = embed_texts(model, torch.from_numpy(ids).to(composer.device), tokenizer.eos_token_id)
    alpha = (decoupled[:, 1:] @ texts[..., None])[..., 0].cpu()
    owners = np.stack([thing_of_patch(question.scene) for question in questions])
    asked = np.array([next(iter(question.subjects)) for question in questions])
    shown = torch.from_numpy(owners == asked[:, None]).float()
    found = torch.gather(shown, 1, alpha.topk(_BEST, dim=1).indices).mean()
    figures = {"negative": (alpha < 0).float().mean(), "alpha": alpha.mean(), "found": found, "chance": shown.mean()}
    return {name: round(float(value), 3) for name, value in figures.items()}
