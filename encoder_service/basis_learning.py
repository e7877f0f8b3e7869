"""Learning a wire basis from visual tokens of pictures; pure numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.wire import basis as wire_basis
from fovea.wire import basis_codec, basis_file, rans
from fovea.wire.cosine_transform import MAX_TRANSFORMED_TOKENS, cosines

__all__ = ["learn"]

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_QUIETEST: Final = 1e-4  # of the loudest: a level is a logarithm
_FLOOR: Final = 0.01  # of the mean weight: a direction that the reader hardly sees is still sent, coarsely
_SCALE_STEPS: Final = range(-8, 9, 2)  # steps about the default at which tables are counted
_PRIOR: Final = 1e-3  # share of a table that is spread evenly, for what was not seen


def learn(pictures: Sequence[Float32Array], reader: Float32Array | None = None) -> bytes:
    """The file of a wire basis.

    The basis is the principal components of tokens multiplied by the square root of reader.T @ reader: a step is then
    equally loud to the reader in every direction (Goyal 2001 on transform coding with a weighted error).

    Args:
        pictures: Of each all tokens [R, C]. Where R is the same in all, a cosine transform along them is learned too.
        reader: [H, C] weight of the layer that reads the tokens; None: all channels count alike.

    Raises:
        ValueError: Fewer tokens than channels.
    """
    channels = pictures[0].shape[1]
    num_tokens = sum(map(len, pictures))
    if num_tokens <= channels:
        raise ValueError(f"{num_tokens} tokens are too few for {channels} channels; give more pictures")
    mean = np.asarray(sum(one.sum(axis=0, dtype=np.float64) for one in pictures) / num_tokens, np.float32)
    covariance = np.zeros((channels, channels))
    for one in pictures:
        rest = (one - mean).astype(np.float64)
        covariance += rest.T @ rest / num_tokens
    analysis, synthesis = _directions(covariance, reader)
    rows = len(pictures[0]) if len({len(one) for one in pictures}) == 1 else 0
    rows = rows if rows <= MAX_TRANSFORMED_TOKENS else 0

    def coefficients() -> Iterator[Float32Array]:
        for one in pictures:
            yield np.asarray((one - mean) @ analysis.astype(np.float32), np.float32)

    alone = _levels(np.sqrt(sum(np.square(y, dtype=np.float64).sum(axis=0) for y in coefficients()) / num_tokens))
    together = np.zeros((0, channels), np.int64)
    if rows:
        squares = sum(np.square(cosines(rows) @ y, dtype=np.float64) for y in coefficients())
        together = _levels(np.sqrt(squares / len(pictures)))
    step = round(4 * np.log2(np.sqrt(np.trace(analysis.T @ covariance @ analysis) / channels)))
    draft = basis_file.from_bytes(
        basis_file.to_bytes(mean, synthesis.astype(np.float32), alone, together, _even(), step)
    )
    frequencies = _frequencies(pictures, draft)
    return basis_file.to_bytes(mean, draft.synthesis, alone, together, frequencies, step)


def _directions(covariance: Float64Array, reader: Float32Array | None) -> tuple[Float64Array, Float64Array]:
    """[C, C] from a token to its coefficients, and back."""
    channels = len(covariance)
    weight = np.eye(channels) if reader is None else np.asarray(reader.T @ reader, np.float64)
    weight = weight / (np.trace(weight) / channels) + _FLOOR * np.eye(channels)
    values, vectors = np.linalg.eigh(weight)
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    components = np.linalg.eigh(root @ covariance @ root)[1][:, ::-1]
    return root @ components, components.T @ inverse


def _levels(spread: Float64Array) -> Ints:
    quietest = max(float(spread.max()) * _QUIETEST, 1e-6)
    return np.asarray(np.round(4 * np.log2(np.maximum(spread, quietest))), np.int64)


def _even() -> Ints:
    tables = np.full((wire_basis.MAX_CLASS - wire_basis.MIN_CLASS + 1, 2 * wire_basis.MAX_SYMBOL + 1), 1)
    return _rounded(tables.astype(np.float64))


def _frequencies(pictures: Sequence[Float32Array], basis: wire_basis.WireBasis) -> Ints:
    """[T, S] of the codes of each class at steps around the default: the shape of a class is the same at all."""
    counts = _even() * 0.0
    for one in pictures:
        for offset in _SCALE_STEPS:
            table, symbols = basis_codec.symbols(one, basis, basis.step + offset)
            np.add.at(counts, (table, symbols), 1.0)
    prior = np.ones_like(counts) / counts.shape[1]
    return _rounded((1 - _PRIOR) * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) + _PRIOR * prior)


def _rounded(shares: Float64Array) -> Ints:
    """Whole numbers of at least 1 in about these shares, each row `rans.TOTAL` together."""
    room = rans.TOTAL - shares.shape[1]
    tables = 1 + np.floor(room * shares / shares.sum(axis=1, keepdims=True)).astype(np.int64)
    most = tables.argmax(axis=1)
    tables[np.arange(len(tables)), most] += rans.TOTAL - tables.sum(axis=1)
    return np.asarray(tables, np.int64)
