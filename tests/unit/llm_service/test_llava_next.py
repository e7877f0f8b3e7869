"""LLaVA-NeXT's language model: loading, and line-end tokens."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlavaNextForConditionalGeneration

from benchmarks.checkpoints.tiny import llava_next
from fovea.modeling.errors import CheckpointError
from llm_service.models import load_model
from llm_service.prompts import Prompt, VisualTokens

IMAGE = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llava_next.write(tmp_path_factory.mktemp("next") / "next")


@pytest.fixture(scope="module")
def unsplit(folder):
    return LlavaNextForConditionalGeneration.from_pretrained(folder).eval()


def load(folder, **options):
    return load_model(
        folder, **{"device": torch.device("cpu"), "dtype": "auto", "attn_implementation": "sdpa", **options}
    )


def features(count):
    return np.random.default_rng(count).standard_normal((count, 64), dtype=np.float32)


@torch.inference_mode()
def embedded(model, newline_after, count=4):
    tokens = VisualTokens(features(count), np.arange(count), (2, 4, 4), np.array(newline_after, np.int64))
    return model.embed(Prompt(np.array([1, 60, IMAGE, 61]), (tokens,)))


@pytest.mark.parametrize(
    ("newline_after", "order"),
    [
        ([], [0, 1, 2, 3]),
        ([1, 3], [0, 1, "end", 2, 3, "end"]),
        ([3, 3, 3], [0, 1, 2, 3, "end", "end", "end"]),
        ([0], [0, "end", 1, 2, 3]),
    ],
)
def test_line_end_tokens_follow_newline_after(folder, unsplit, newline_after, order):
    inputs = embedded(load(folder), newline_after)
    with torch.inference_mode():
        projected = unsplit.model.multi_modal_projector(torch.from_numpy(features(4)))
        text = unsplit.get_input_embeddings()(torch.tensor([1, 60, 61]))
        image = torch.stack([unsplit.model.image_newline if index == "end" else projected[index] for index in order])
    torch.testing.assert_close(inputs.inputs_embeds, torch.cat([text[:2], image, text[2:]]))
    assert inputs.position_ids.tolist() == list(range(3 + len(order)))
    assert inputs.next_position_id == 3 + len(order)


def edited(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "copy")
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_layout_of_transformers_5_is_read(folder, unsplit, tmp_path):
    copy = edited(folder, tmp_path, lambda _: {name: tensor.clone() for name, tensor in unsplit.state_dict().items()})
    assert "model.image_newline" in load_file(copy / "model.safetensors")
    assert torch.equal(embedded(load(copy), [1]).inputs_embeds, embedded(load(folder), [1]).inputs_embeds)


def test_the_hubs_layout_in_half_precision_is_read_without_a_vision_tower(folder, tmp_path):
    def as_on_the_hub(tensors):
        return {name: tensor.half() for name, tensor in tensors.items() if not name.startswith("vision_tower.")}

    copy = edited(folder, tmp_path, as_on_the_hub)
    names = load_file(copy / "model.safetensors").keys()
    assert {"image_newline", "language_model.lm_head.weight", "language_model.model.norm.weight"} <= names
    model = load(copy)
    assert model.image_newline.dtype == torch.float32
    expected = embedded(load(folder), [1]).inputs_embeds
    torch.testing.assert_close(embedded(model, [1]).inputs_embeds, expected, atol=1e-2, rtol=1e-2)


def test_line_end_tokens_have_the_compute_dtype(folder):
    assert embedded(load(folder, dtype="bfloat16"), [1]).inputs_embeds.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "image_newline"},
        lambda tensors: tensors | {"image_newline": torch.zeros(5)},
    ],
)
def test_a_checkpoint_without_its_line_end_token_is_refused(folder, tmp_path, change):
    with pytest.raises(CheckpointError, match="has no image_newline of 96 channels"):
        load(edited(folder, tmp_path, change))
