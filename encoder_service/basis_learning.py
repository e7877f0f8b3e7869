"""Learning of a wire basis from the visual tokens of images, in numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.wire import basis as wire_basis
from fovea.wire import basis_codec, basis_file, rans
from fovea.wire.cosine_transform import MAX_TRANSFORMED_TOKENS, cosines

__all__ = ["learn_basis"]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MIN_SPREAD: Final = 1e-4  # share of the largest: a level is a logarithm and needs a positive number
_MIN_WEIGHT: Final = 0.01  # share of the mean: a direction of little weight to the reader is still sent, coarsely
_STEP_OFFSETS: Final = range(-8, 9, 2)  # steps around the default at which symbols are counted
_PRIOR: Final = 1e-3  # share of a table that is spread evenly, for symbols that do not occur


def learn_basis(images: Sequence[Float32Array], reader: Float32Array | None = None) -> bytes:
    """Bytes of the file of a wire basis.

    The basis is the principal components of tokens multiplied by the square root of reader.T @ reader: a quantization
    step then has the same effect on the reader in every direction (Goyal 2001 on transform coding with a weighted
    error).

    Args:
        images: All tokens of each image, [R, C]. Where R is the same in all images, a cosine transform along the tokens
            is learned too.
        reader: [H, C] weight of the layer that reads the tokens; None: all channels have the same weight.

    Raises:
        ValueError: There are fewer tokens than channels.
    """
    channels = images[0].shape[1]
    num_tokens = sum(map(len, images))
    if num_tokens <= channels:
        raise ValueError(f"{num_tokens} tokens are too few for {channels} channels; give more images")
    mean, covariance = _moments(images)
    analysis, synthesis = _directions(covariance, reader)

    def coefficients() -> Iterator[Float32Array]:
        for tokens in images:
            yield np.asarray((tokens - mean) @ analysis.astype(np.float32), np.float32)

    token_levels = _levels(
        np.sqrt(sum(np.square(y, dtype=np.float64).sum(axis=0) for y in coefficients()) / num_tokens)
    )
    image_levels = np.zeros((0, channels), np.int64)
    if tokens_per_image := _tokens_per_image(images):
        squares = sum(np.square(cosines(tokens_per_image) @ y, dtype=np.float64) for y in coefficients())
        image_levels = _levels(np.sqrt(squares / len(images)))
    step = round(4 * np.log2(np.sqrt(np.trace(analysis.T @ covariance @ analysis) / channels)))
    draft = basis_file.from_bytes(
        basis_file.to_bytes(mean, synthesis.astype(np.float32), token_levels, image_levels, _even_tables(), step)
    )
    tables = _tables(images, draft)
    return basis_file.to_bytes(mean, draft.synthesis, token_levels, image_levels, tables, step)


def _moments(images: Sequence[Float32Array]) -> tuple[Float32Array, Float64Array]:
    """Mean [C] and covariance [C, C] of all tokens."""
    channels, num_tokens = images[0].shape[1], sum(map(len, images))
    mean = np.asarray(sum(tokens.sum(axis=0, dtype=np.float64) for tokens in images) / num_tokens, np.float32)
    covariance = np.zeros((channels, channels))
    for tokens in images:
        centred = (tokens - mean).astype(np.float64)
        covariance += centred.T @ centred / num_tokens
    return mean, covariance


def _tokens_per_image(images: Sequence[Float32Array]) -> int:
    """Number of tokens of every image; 0 where images differ or have more than can be transformed."""
    counts = {len(tokens) for tokens in images}
    return counts.pop() if len(counts) == 1 and max(counts) <= MAX_TRANSFORMED_TOKENS else 0


def _directions(covariance: Float64Array, reader: Float32Array | None) -> tuple[Float64Array, Float64Array]:
    """Matrices [C, C] from a token to its coefficients, and back."""
    channels = len(covariance)
    weight = np.eye(channels) if reader is None else np.asarray(reader.T @ reader, np.float64)
    weight = weight / (np.trace(weight) / channels) + _MIN_WEIGHT * np.eye(channels)
    values, vectors = np.linalg.eigh(weight)
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    components = np.linalg.eigh(root @ covariance @ root)[1][:, ::-1]
    return root @ components, components.T @ inverse


def _levels(spread: Float64Array) -> Ints:
    """Quarter octaves of standard deviations."""
    least = max(float(spread.max()) * _MIN_SPREAD, 1e-6)
    return np.asarray(np.round(4 * np.log2(np.maximum(spread, least))), np.int64)


def _even_tables() -> Ints:
    """Frequency tables in which all symbols are equally frequent."""
    tables = np.full((wire_basis.MAX_CLASS - wire_basis.MIN_CLASS + 1, 2 * wire_basis.MAX_SYMBOL + 1), 1)
    return _rounded(tables.astype(np.float64))


def _tables(images: Sequence[Float32Array], basis: wire_basis.WireBasis) -> Ints:
    """[T, S] frequencies of the symbols of each class, counted at steps around the default.

    The distribution in a class is about the same at all steps.
    """
    counts = _even_tables() * 0.0
    for tokens in images:
        for offset in _STEP_OFFSETS:
            table, symbols = basis_codec.symbols(tokens, basis, basis.step + offset)
            np.add.at(counts, (table, symbols), 1.0)
    prior = np.ones_like(counts) / counts.shape[1]
    return _rounded((1 - _PRIOR) * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) + _PRIOR * prior)


def _rounded(shares: Float64Array) -> Ints:
    """Integers of at least 1 in about the given shares; each row sums to `rans.TOTAL`."""
    room = rans.TOTAL - shares.shape[1]
    tables = 1 + np.floor(room * shares / shares.sum(axis=1, keepdims=True)).astype(np.int64)
    largest = tables.argmax(axis=1)
    tables[np.arange(len(tables)), largest] += rans.TOTAL - tables.sum(axis=1)
    return np.asarray(tables, np.int64)
