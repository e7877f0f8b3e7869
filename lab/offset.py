"""Constant offset of CLIP's image embeddings after training, which makes most cosines with texts positive.

A softmax over texts is invariant to a shift that is the same for all texts, so training leaves that shift undetermined.
After training the cosines of patches in the decoupled branch were about -0.15. DeSAP's task map multiplies two cosines,
and two negative factors rank the least relevant patches first. OpenAI's CLIP has positive cosines. The shift here is
the same for every image, patch and text. It is computed from texts and image embeddings, and hardly changes which text
matches an image best: the area under the curve of matched against unmatched pairs falls from 0.985 to about 0.98.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from lab.captions import CONCEPTS, composite_caption, concept_text
from lab.scenes import sample_scene
from lab.towers import encode_texts, tower_of

STRENGTH = 0.8  # length of the shift, as a share of an image embedding's length
RIDGE = 0.1


@torch.no_grad()
def add_positive_offset(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, pooled: torch.Tensor, strength: float = STRENGTH
) -> None:
    """Shifts `post_layernorm.bias` in place.

    The projection maps the shift to a vector whose product with every text is nearly the same. It is the ridge
    regression of the constant 1 on the texts, seen through the projection; the ridge keeps the shift small.

    Args:
        model: trained model.
        tokenizer: tokenizer of the text tower.
        pooled: image embeddings before normalization, `[B, projection]`.
        strength: length of the shift as a share of the mean length of `pooled`.
    """
    rng = np.random.default_rng(0)
    texts = [concept_text(concept, rng) for concept in CONCEPTS for _ in range(4)]
    texts += [composite_caption(sample_scene("easy", seed), rng) for seed in range(400)]
    projection = model.visual_projection.weight.double()
    seen = encode_texts(model, tokenizer, texts).double() @ projection
    moments = seen.T @ seen / len(texts)
    damping = RIDGE * moments.trace() / len(moments) * torch.eye(len(moments), dtype=torch.float64)
    direction = torch.linalg.solve(moments + damping, seen.mean(0))
    length = strength * pooled.norm(dim=-1).mean().double() / (projection @ direction).norm()
    tower: Any = tower_of(model)
    tower.post_layernorm.bias += (length * direction).to(tower.post_layernorm.bias.dtype)
