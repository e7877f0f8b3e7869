"""Text features from rows of an embedding table are those of the whole table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from encoder_service.models.embedding_rows import EmbeddingRows
from fovea.modeling.errors import CheckpointError

HUB = "model.embed_tokens.weight"
NAMES = [HUB, "model.language_model.embed_tokens.weight", "language_model.model.embed_tokens.weight"]
WIDTH = 24
CPU = torch.device("cpu")
TEXTS = [[7, 8, 8, 60], [99, 7], [8]]


def table(dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(100, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)


def write(folder: Path, values: torch.Tensor, name: str = HUB) -> Path:
    save_file({name: values, "visual.weight": torch.ones(3)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_the_rows_of_the_ids_in_the_compute_dtype(
    tmp_path: Path, name: str, stored: torch.dtype, dtype: torch.dtype
) -> None:
    embeddings = EmbeddingRows(write(tmp_path, table(stored), name), WIDTH, CPU, dtype)
    assert embeddings.vocab_size == 100
    features = embeddings.text_features(TEXTS)
    assert features.is_token is not None
    assert features.is_token.tolist() == [[True] * 4, [True, True, False, False], [True, False, False, False]]
    for text, tokens, eos in zip(TEXTS, features.tokens, features.eos, strict=True):
        rows = table(stored)[text].to(dtype)
        assert torch.equal(tokens[: len(text)], rows)
        torch.testing.assert_close(eos, rows.float().mean(0, keepdim=True).to(dtype))


def test_a_row_is_read_once_for_all_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = EmbeddingRows(write(tmp_path, table()), WIDTH, CPU, torch.float32)
    read: list[int] = []
    preadv = os.preadv

    def counted(file: int, buffers: Any, offset: int) -> int:
        read.append(offset)
        return preadv(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    embeddings.text_features([TEXTS[0], TEXTS[0][::-1]])
    assert len(read) == len(set(read)) == len({7, 8, 60})


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no embed_tokens\.weight of the language model"):
        EmbeddingRows(write(tmp_path, table(), "lm_head.weight"), WIDTH, CPU, torch.float32)


def test_a_table_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"embeds words in {WIDTH} channels, its vision tower makes 32"):
        EmbeddingRows(write(tmp_path, table()), 32, CPU, torch.float32)
