"""The functions of the training equal the models of transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lab.checkpoint import CHECKPOINTS
from lab.clip_losses import multi_positive_loss, pair_loss, unmatched_offset_loss
from lab.models import build_clip, build_llava
from lab.optimizer import MasterOptimizer, orthogonalize, schedule
from lab.packed import packed_hidden
from lab.question_pool import SHORT_LENGTH, BlockEncoder, training_questions
from lab.scenes import sample_scene
from lab.token_drop import merge, random_keep
from lab.towers import text_states, vision_states


@pytest.fixture(scope="module")
def clip_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(CHECKPOINTS / "clip")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(CHECKPOINTS / "llava")


@torch.no_grad()
def test_lean_towers_equal_transformers(clip_tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_clip(clip_tokenizer).eval()
    pixels = torch.randn(2, 3, 144, 144)
    expected = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    second_last, last = vision_states(model.vision_model, pixels)
    torch.testing.assert_close(second_last, expected[-2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last, expected[-1], atol=1e-4, rtol=1e-4)
    tokens = clip_tokenizer(["what color is the star?", "a"], padding=True, return_tensors="pt")
    pooled = text_states(model.text_model, tokens["input_ids"], clip_tokenizer.eos_token_id)
    torch.testing.assert_close(pooled, model.text_model(**tokens).pooler_output, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_packed_questions_equal_single_ones(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_llava(tokenizer).eval()
    language = model.model.language_model
    features = torch.randn(2, 9, 128)
    head = torch.tensor([1, 20, 21])
    short, long = torch.randint(4, 500, (2, 3, 5)), torch.randint(4, 500, (2, 1, 8))
    hidden = packed_hidden(model, features, head, [short, long])
    for row in range(2):
        visual = model.model.multi_modal_projector(features[row])
        for begin, ids in ((0, short[row, 0]), (10, short[row, 2]), (15, long[row, 0])):
            embeds = torch.cat([language.embed_tokens(head), visual, language.embed_tokens(ids)])[None]
            alone = language(inputs_embeds=embeds).last_hidden_state[0, -len(ids) :]
            torch.testing.assert_close(hidden[row, begin : begin + len(ids)], alone, atol=1e-4, rtol=1e-4)


def test_losses_prefer_matches() -> None:
    labels = torch.eye(4, dtype=torch.bool)
    weights = torch.ones(4, 4)
    sharp, flat = 10 * torch.eye(4), torch.zeros(4, 4)
    assert multi_positive_loss(sharp, labels, weights) < multi_positive_loss(flat, labels, weights)
    assert pair_loss(10 * torch.eye(4)) < pair_loss(torch.zeros(4, 4))
    assert unmatched_offset_loss(torch.full((4, 4), 0.12), labels) == pytest.approx(0, abs=1e-6)


def test_other_positives_do_not_compete() -> None:
    logits = torch.tensor([[5.0, 5.0, 0.0]])
    both = multi_positive_loss(logits, torch.tensor([[True, True, False]]), torch.ones(1, 3))
    assert both == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-5.0))), abs=1e-5)


def test_orthogonalize_flattens_singular_values() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 16, 48)))
    assert values.min() > 0.6
    assert values.max() < 1.4


def test_master_weights_keep_updates_that_bfloat16_would_lose() -> None:
    layer = torch.nn.Linear(4, 4).bfloat16()
    optimizer = MasterOptimizer(layer.named_parameters(), [], weight_decay=0)
    before = optimizer.masters["bias"].clone()
    for _ in range(3):
        layer.bias.grad = torch.ones_like(layer.bias)
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step(lr=1e-6, muon_lr=0)
    torch.testing.assert_close(before - optimizer.masters["bias"], torch.full((4,), 3e-6), atol=1e-7, rtol=0.1)
    assert layer.bias.dtype == torch.bfloat16
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert optimizer.count == 3


def test_schedule_rises_stays_and_falls() -> None:
    assert schedule(0, 1000) < schedule(149, 1000) == schedule(600, 1000) == 1.0
    assert schedule(999, 1000) < 0.02


def test_merge_takes_means_and_keeps_mass() -> None:
    features = torch.randn(2, 12, 6)
    owners = torch.full((2, 12), -1)
    kept = random_keep(owners, 5, torch.Generator().manual_seed(0))
    assert kept.shape == (2, 5)
    assert (kept[:, 1:] > kept[:, :-1]).all()
    merged = merge(features, kept)
    assert merged.shape == (2, 5, 6)
    everything = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(merge(features, everything), features)


def test_blocks_hold_question_and_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    questions = training_questions(sample_scene("crowded", 11), np.random.default_rng(0))
    assert questions[-1].group == "caption"
    ids, start, stop = BlockEncoder(tokenizer)(questions[0], SHORT_LENGTH)
    assert len(ids) == SHORT_LENGTH
    assert tokenizer.decode(ids[start:stop]) == f" {questions[0].answer}</s>"
    assert tokenizer.decode(ids[:start]) == f"\n{questions[0].text} ASSISTANT:"
