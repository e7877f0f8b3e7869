"""Looks at what the pruners will see in a CLIP: does the decoupled branch, or the CLS row, find what is asked about?

Diagnosis only. Nothing here is ever trained on. The branch is ClearCLIP's (arXiv 2407.12442) as DeSAP uses it: the last
layer's attention with queries in the place of keys, without residual and MLP.
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
from lab.render import render_array, thing_of_patch
from lab.scenes import COLORS, SHAPES, Thing
from lab.towers import normalize_pixels, text_token_states, tower_of, vision_states


def last_layer_maps(tower: Any, projection: Any, second_last: Tensor) -> tuple[Tensor, Tensor]:
    """From X[-2] `[B, 145, width]`: decoupled unit features `[B, 145, projection]` and CLS attention `[B, 144]`."""
    layer = tower.encoder.layers[-1]
    attention = layer.self_attn
    normed = layer.layer_norm1(second_last)
    batch, rows, width = normed.shape
    heads = attention.num_heads
    q, k, v = (
        linear(normed).view(batch, rows, heads, width // heads).transpose(1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scale = (width // heads) ** -0.5
    mixed = functional.scaled_dot_product_attention(q, q, v).transpose(1, 2).reshape(batch, rows, width)
    decoupled = projection(tower.post_layernorm(attention.out_proj(mixed)))
    saliency = ((q[:, :, :1] * scale) @ k.mT).float().softmax(-1).mean(1)[:, 0, 1:]
    return functional.normalize(decoupled.float(), dim=-1), saliency


def fcma(patches: Tensor, tokens: Tensor, eos: Tensor, start: Tensor, clamp: bool = False) -> Tensor:
    """DeSAP's task map at lambda = 0 for one picture: `[N]` from unit `[N, d]`, `[L, d]`, `[d]` and `[d]` (CLS row)."""
    similarity = patches @ tokens.T
    alpha, beta = patches @ eos, tokens @ start
    if clamp:
        alpha, beta = alpha.clamp(min=0), beta.clamp(min=0)
    return ((alpha[:, None] + beta) * similarity).sum(1)


def alignment_report(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, num_scenes: int = 40, seed: int = 900
) -> dict[str, float]:
    """Top-8 precision on the asked object for questions on crowded pictures, and what else the pruners depend on.

    `chance`; `cls` (saliency); `eos` and `mean` (decoupled cosine with the question's EOS, with all its tokens); `fcma`
    as printed and `fcma+` with cosines clamped at zero; `negative`: share of patches whose cosine with EOS is below
    zero; `salient`: share of the CLS row's top 16 patches on distractors; `covered`: share of objects that these
    16 patches touch.
    """
    questions = evaluation_questions("crowded", seed, num_scenes, groups=("color", "shape", "side", "reading"))
    tower = tower_of(model)
    dtype = next(model.parameters()).dtype
    pixels = normalize_pixels(np.stack([render_array(q.scene) for q in questions])).to(dtype)
    second_last, _ = vision_states(tower, pixels)
    decoupled, saliency = last_layer_maps(tower, model.visual_projection, second_last)
    alphas, found = [], defaultdict(list)
    for row, question in enumerate(questions):
        ids = tokenizer(question.text, return_tensors="pt")["input_ids"]
        tokens = functional.normalize(
            model.text_projection(text_token_states(model.text_model, ids))[0].float(), dim=-1
        )
        things, owners = question.scene.things, thing_of_patch(question.scene)
        asked = [i for i, thing in enumerate(things) if not thing.distractor and _is_asked(question.text, thing)]
        on_asked = torch.from_numpy(np.isin(owners, asked)).float()
        on_salient = torch.from_numpy(
            np.isin(owners, [i for i, thing in enumerate(things) if thing.distractor])
        ).float()
        patches, eos = decoupled[row, 1:], tokens[-1]
        maps = {
            "cls": saliency[row],
            "eos": patches @ eos,
            "mean": (patches @ tokens.T).mean(1),
            "fcma": fcma(patches, tokens, eos, decoupled[row, 0]),
            "fcma+": fcma(patches, tokens, eos, decoupled[row, 0], clamp=True),
        }
        found["chance"].append(on_asked.mean().item())
        for name, scores in maps.items():
            found[name].append(on_asked[scores.topk(8).indices].mean().item())
        top = saliency[row].topk(16).indices
        found["salient"].append(on_salient[top].mean().item())
        objects = {i for i, thing in enumerate(things) if not thing.distractor}
        found["covered"].append(len(objects & set(owners[top.numpy()].tolist())) / len(objects))
        alphas.append(maps["eos"])
    alpha = torch.stack(alphas)
    report = {name: round(sum(values) / len(values), 3) for name, values in found.items()}
    return report | {"negative": round((alpha < 0).float().mean().item(), 3), "alpha": round(alpha.mean().item(), 3)}


def _is_asked(text: str, thing: Thing) -> bool:
    """Whether the question's words name this thing: each of its colour words and shape words must fit."""
    words = text.lower().replace("?", "").replace(".", "").split()
    colors, shapes = [w for w in words if w in COLORS], [w for w in words if w in SHAPES]
    return all(w == thing.look for w in colors) and all(w == thing.shape for w in shapes) and bool(colors or shapes)
