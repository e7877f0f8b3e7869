"""Tokens as integer codes and what scales them: the sections of a body of the integer wire formats (docs/wire.md)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from fovea.errors import InvalidRequest

__all__ = ["ENTROPY", "INT4", "INT8", "VERSION", "Packing", "Quantized", "Scheme", "all_finite"]

Packing = Literal["packed", "shorter"]

VERSION: Final = 1
PACKED: Final = 0
DEFLATED: Final = 1
HAS_MEAN: Final = 1
TRANSFORMED: Final = 2
HEADER: Final = struct.Struct("<BBBBHH")  # version, coding, flags, reserved, channels per scale, outliers per token
_MAX_CHANNELS: Final = 65535
# The mean token costs 16 bits per channel and saves about a quarter of a bit per value (benchmarks/LOG.md).
_MIN_TOKENS_FOR_MEAN: Final = 96


@dataclass(frozen=True)
class Scheme:
    """Quantization of one integer dtype.

    Attributes:
        bits: number of bits of a code; codes are -limit to limit with limit = 2 ** (bits - 1) - 1.
        group: number of channels that share a scale; 0 for all channels of a token, -1 for the whole tensor.
        outliers_per: number of channels per outlier, a value that is sent as float16; 0 for no outliers.
        step: lower limit of the scale as a multiple of the root mean square of the values; 0 for none.
        subtracts_mean: whether the mean of many tokens is sent once and subtracted from each.
        transforms: whether a cosine transform along the tokens follows, since neighboring tokens are similar.
        coded_bits: expected number of bits of a Huffman-coded code; if 0, `bits` is expected.
    """

    bits: int
    group: int
    outliers_per: int = 0
    step: float = 0.0
    subtracts_mean: bool = False
    transforms: bool = False
    coded_bits: float = 0.0

    @property
    def limit(self) -> int:
        """Largest code."""
        return int(2 ** (self.bits - 1) - 1)

    def num_outliers(self, channels: int) -> int:
        """Number of outliers of each token."""
        return max(1, channels // self.outliers_per) if self.outliers_per and channels > self.group else 0

    def has_mean(self, num_tokens: int) -> bool:
        """Whether a tensor of so many tokens has a mean."""
        return self.subtracts_mean and num_tokens >= _MIN_TOKENS_FOR_MEAN


INT8: Final = Scheme(bits=8, group=0)
INT4: Final = Scheme(bits=4, group=64, outliers_per=256, subtracts_mean=True)
# A uniform quantizer with one step for all channels and Huffman-coded codes is close to the optimum at these rates
# (Gish & Pierce 1968): channels of high variance take more bits by themselves. With this step a Gaussian
# channel has 2.46 bits of entropy, and a channel with heavier tails has less.
ENTROPY: Final = Scheme(bits=8, group=-1, step=0.75, subtracts_mean=True, transforms=True, coded_bits=2.6)


@dataclass(frozen=True, eq=False)
class Quantized:
    """Quantized tensor of R tokens and C channels: the sections of a body.

    Attributes:
        scheme: quantization.
        codes: codes of all values, [R, C]; 0 for outliers.
        scales: scale of each group, [R, groups] or [1, 1].
        outlier_channels: channels of the outliers, [R, M], ascending in each token.
        outliers: values of the outliers, [R, M].
        mean: mean token, [C]; empty if none is sent.
        is_transformed: whether the codes are those of the cosine transform along the tokens.
    """

    scheme: Scheme
    codes: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    outlier_channels: npt.NDArray[np.integer]
    outliers: npt.NDArray[np.float16]
    mean: npt.NDArray[np.float16]
    is_transformed: bool = False

    def __len__(self) -> int:
        """R."""
        return len(self.codes)

    def __getitem__(self, tokens: slice | npt.NDArray[np.int64]) -> Quantized:
        """Some tokens, or all in another order. The scheme has a scale for each token and no transform."""
        return replace(
            self,
            codes=self.codes[tokens],
            scales=self.scales[tokens],
            outlier_channels=self.outlier_channels[tokens],
            outliers=self.outliers[tokens],
        )

    @classmethod
    def joined(cls, parts: Sequence[Quantized]) -> Quantized:
        """Tokens of several tensors without a mean, one after the other. See `__getitem__` for the scheme."""
        return replace(
            parts[0],
            codes=np.concatenate([part.codes for part in parts]),
            scales=np.concatenate([part.scales for part in parts]),
            outlier_channels=np.concatenate([part.outlier_channels for part in parts]),
            outliers=np.concatenate([part.outliers for part in parts]),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """R and C."""
        return self.codes.shape

    @property
    def is_finite(self) -> bool:
        """Whether scales, outliers and mean are finite. If not, a value was not, or was too large for them."""
        return all(all_finite(part) for part in (self.scales, self.outliers, self.mean))

    def write(self, *, packing: Packing = "shorter") -> bytes:
        """Body of the tensor: the bytes of `Tensor.data`.

        Args:
            packing: `shorter` for Huffman coding if it needs fewer bytes, `packed` for no Huffman coding.

        Raises:
            InvalidRequest: there are more than 65,535 channels, or a value is too large for a scale in float16.
        """
        channels = self.codes.shape[1]
        if channels > _MAX_CHANNELS:
            raise InvalidRequest(f"{channels} channels; integer dtypes take up to {_MAX_CHANNELS}")
        if not self.is_finite:
            raise InvalidRequest("a value is too large for the scales of this dtype, which are float16")
        group = {0: channels, -1: 0}.get(self.scheme.group, min(self.scheme.group, channels))
        coding, codes = PACKED, _pack(self.codes, self.scheme.bits)
        if packing == "shorter":
            deflated = _deflate(self.codes)
            if len(deflated) < len(codes):
                coding, codes = DEFLATED, deflated
        flags = HAS_MEAN * (self.mean.size > 0) | TRANSFORMED * self.is_transformed
        header = HEADER.pack(VERSION, coding, flags, 0, group, self.outliers.shape[1])
        floats = (part.astype("<f2", copy=False).tobytes() for part in (self.mean, self.scales, self.outliers))
        mean, scales, outliers = floats
        return b"".join((header, mean, scales, self.outlier_channels.astype("<u2").tobytes(), outliers, codes))


def all_finite(values: npt.NDArray[np.float16] | npt.NDArray[np.float32]) -> bool:
    """Whether all values are finite."""
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # `np.isfinite` takes more than ten times as long for float16.
    bits = values.astype(np.float16, copy=False).view(np.uint16)
    return bool((bits & 0x7FFF).max(initial=0) < 0x7C00)


def _pack(codes: npt.NDArray[np.int8], bits: int) -> bytes:
    if bits == 8:
        return codes.tobytes()
    flat = np.append(codes.reshape(-1), np.zeros(codes.size % 2, np.int8)).view(np.uint8) & 0xF
    return ((flat[1::2] << 4) | flat[::2]).tobytes()


def _deflate(codes: npt.NDArray[np.int8]) -> bytes:
    # Huffman coding only: repeats occur by chance here, and a search for them makes the result longer and takes time.
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(codes.tobytes()) + coder.flush()
