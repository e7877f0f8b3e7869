"""Features of single tower inputs and texts out of the batches that a model computes, for tests that compare them."""

from __future__ import annotations

from encoder_service.engine.pruning_units import units_of
from encoder_service.engine.unit_batches import gather
from encoder_service.models.media_features import MediaFeatures
from encoder_service.pruners.base import TextFeatures, TowerFeatures
from tests.request_media import request_media

__all__ = ["single_text", "tower_features"]


def tower_features(media: MediaFeatures) -> list[TowerFeatures]:
    """Features of each tower input that is not all padding, without padding and without a batch axis."""
    outputs = frozenset(media.batch.outputs)
    return [gather([unit], outputs=outputs).vision.at(0) for unit in units_of(request_media(media))]


def single_text(texts: TextFeatures, index: int = 0) -> TextFeatures:
    """Features of one text of a batch, without padding and without a batch axis."""
    assert texts.is_token is not None
    is_token = texts.is_token[index]
    eos = texts.eos[index] if texts.is_window is None else texts.eos[index][texts.is_window[index]]
    attention = None if texts.eos_attention is None else texts.eos_attention[index][is_token]
    return TextFeatures(
        texts.tokens[index][is_token], eos, texts.is_word[index][is_token], attention, space=texts.space
    )
