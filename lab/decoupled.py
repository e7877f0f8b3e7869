"""Diagnosis of a CLIP's maps for pruners: how well they locate the object that is asked about.

The maps are those of CLS attention and of the decoupled branch. That branch is ClearCLIP's (arXiv 2407.12442) as DeSAP
uses it: the last layer's attention with queries in place of keys, without residual and MLP. Nothing here is used in
training.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.questions import evaluation_questions
from lab.render import label_patches, render_array
from lab.scenes import COLORS, SHAPES, Thing
from lab.towers import normalize_pixels, text_token_states, tower_of, vision_states


def last_layer_maps(tower: Any, projection: Any, second_last: Tensor) -> tuple[Tensor, Tensor]:
    """Decoupled unit features `[B, 145, projection]` and CLS attention `[B, 144]`, from X[-2] `[B, 145, width]`."""
    layer = tower.encoder.layers[-1]
    attention = layer.self_attn
    normed = layer.layer_norm1(second_last)
    batch, length, width = normed.shape
    heads = attention.num_heads
    q, k, v = (
        linear(normed).view(batch, length, heads, width // heads).transpose(1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scale = (width // heads) ** -0.5
    mixed = functional.scaled_dot_product_attention(q, q, v).transpose(1, 2).reshape(batch, length, width)
    decoupled = projection(tower.post_layernorm(attention.out_proj(mixed)))
    saliency = ((q[:, :, :1] * scale) @ k.mT).float().softmax(-1).mean(1)[:, 0, 1:]
    return functional.normalize(decoupled.float(), dim=-1), saliency


def fcma(patches: Tensor, tokens: Tensor, eos: Tensor, start: Tensor, clamp: bool = False) -> Tensor:
    """DeSAP's task map at lambda = 0 of one image, `[N]`.

    Args:
        patches: unit features of the patches, `[N, d]`.
        tokens: unit features of the question's tokens, `[L, d]`.
        eos: unit feature of the question's EOS, `[d]`.
        start: unit feature of the image's CLS, `[d]`.
        clamp: whether to clamp the cosines with `eos` and `start` at zero.
    """
    similarity = patches @ tokens.T
    alpha, beta = patches @ eos, tokens @ start
    if clamp:
        alpha, beta = alpha.clamp(min=0), beta.clamp(min=0)
    return ((alpha[:, None] + beta) * similarity).sum(1)


def alignment_report(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, num_scenes: int = 40, seed: int = 900
) -> dict[str, float]:
    """Share of each map's best 8 patches on the object asked about, for questions about crowded images.

    Maps: `cls`, CLS attention; `eos`, decoupled cosine with the question's EOS; `mean`, the same, mean over all its
    tokens; `fcma`, as printed in the paper; `fcma+`, with cosines clamped at zero. `chance` is the share of random
    patches. Other figures: `negative`, share of patches whose cosine with EOS is below zero; `alpha`, mean of that
    cosine; `salient`, share of distractor patches among the 16 patches of highest CLS attention; `covered`, share of
    objects that these 16 patches touch.
    """
    questions = evaluation_questions("crowded", seed, num_scenes, groups=("color", "shape", "side", "reading"))
    tower = tower_of(model)
    dtype = next(model.parameters()).dtype
    pixels = normalize_pixels(np.stack([render_array(q.scene) for q in questions])).to(dtype)
    second_last, _ = vision_states(tower, pixels)
    decoupled, saliency = last_layer_maps(tower, model.visual_projection, second_last)
    alphas, figures = [], defaultdict(list)
    for index, question in enumerate(questions):
        ids = tokenizer(question.text, return_tensors="pt")["input_ids"]
        tokens = functional.normalize(
            model.text_projection(text_token_states(model.text_model, ids))[0].float(), dim=-1
        )
        things, thing_of_patch = question.scene.things, label_patches(question.scene)
        asked = [i for i, thing in enumerate(things) if not thing.distractor and _is_asked(question.text, thing)]
        on_asked = torch.from_numpy(np.isin(thing_of_patch, asked)).float()
        on_distractor = torch.from_numpy(
            np.isin(thing_of_patch, [i for i, thing in enumerate(things) if thing.distractor])
        ).float()
        patches, eos = decoupled[index, 1:], tokens[-1]
        maps = {
            "cls": saliency[index],
            "eos": patches @ eos,
            "mean": (patches @ tokens.T).mean(1),
            "fcma": fcma(patches, tokens, eos, decoupled[index, 0]),
            "fcma+": fcma(patches, tokens, eos, decoupled[index, 0], clamp=True),
        }
        figures["chance"].append(on_asked.mean().item())
        for name, scores in maps.items():
            figures[name].append(on_asked[scores.topk(8).indices].mean().item())
        top = saliency[index].topk(16).indices
        figures["salient"].append(on_distractor[top].mean().item())
        objects = {i for i, thing in enumerate(things) if not thing.distractor}
        figures["covered"].append(len(objects & set(thing_of_patch[top.numpy()].tolist())) / len(objects))
        alphas.append(maps["eos"])
    alpha = torch.stack(alphas)
    report = {name: round(sum(values) / len(values), 3) for name, values in figures.items()}
    return report | {"negative": round((alpha < 0).float().mean().item(), 3), "alpha": round(alpha.mean().item(), 3)}


def _is_asked(text: str, thing: Thing) -> bool:
    """Whether a question names a thing: all its colour words and shape words must match the thing."""
    words = text.lower().replace("?", "").replace(".", "").split()
    colors, shapes = [w for w in words if w in COLORS], [w for w in words if w in SHAPES]
    return all(w == thing.look for w in colors) and all(w == thing.shape for w in shapes) and bool(colors or shapes)
