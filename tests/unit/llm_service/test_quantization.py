"""Quantization to 8 and 4 bits: smaller weights, nearly the same logits, and a clear error without bitsandbytes."""

from __future__ import annotations

import sys

import pytest
import torch

from fovea.modeling.errors import CheckpointError
from llm_service.models import load_model
from tests.unit.llm_service.test_models import PROMPT

bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantization needs bitsandbytes")


def load(checkpoint, quantization, dtype="float32"):
    return load_model(
        checkpoint,
        device=torch.device("cpu"),
        dtype=dtype,
        attn_implementation="sdpa",
        quantization=quantization,
    )


@torch.inference_mode()
def last_logits(model):
    inputs = model.embed(PROMPT)
    return model.causal_lm(inputs_embeds=inputs.inputs_embeds[None]).logits[0, -1].float()


def layer_bytes(model):
    return sum(p.nbytes for p in model.causal_lm.model.layers.parameters())


@pytest.mark.parametrize(("scheme", "smallest_similarity", "largest_share"), [("int8", 0.99, 0.3), ("nf4", 0.9, 0.2)])
def test_quantized_models_are_smaller_with_nearly_the_same_logits(
    checkpoint, scheme, smallest_similarity, largest_share
):
    full, small = load(checkpoint, "none"), load(checkpoint, scheme)
    assert layer_bytes(small) < largest_share * layer_bytes(full)
    similarity = torch.cosine_similarity(last_logits(full), last_logits(small), dim=0)
    assert smallest_similarity < similarity < 1
    assert type(small.causal_lm.lm_head) is torch.nn.Linear
    assert small.dtype == torch.float32


def test_4_bits_work_with_half_precision(checkpoint):
    assert last_logits(load(checkpoint, "nf4", dtype="bfloat16")).isfinite().all()


def test_without_bitsandbytes_the_error_names_the_package(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        CheckpointError, match=r"bitsandbytes, which is not installed: pip install .fovea\[quantization\]"
    ):
        load(checkpoint, "nf4")
