"""Base of the codecs of wire formats: what writes tokens as the bytes of `Tensor.data`, and reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fovea.wire.basis import WireBasis
from fovea.wire.quantized import Packing

__all__ = ["Codec", "Coding", "Float32Array"]

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Coding:
    """Choices of an encoding that some wire formats have.

    Attributes:
        packing: whether codes are Huffman-coded where that is shorter, in formats that have codes.
        basis: wire basis that is loaded; None if there is none.
        step: one of `Codec.steps`; None for the default.
    """

    packing: Packing = "shorter"
    basis: WireBasis | None = None
    step: int | None = None


class Codec(ABC):
    """Encoding of R tokens of C channels as the bytes of `Tensor.data`."""

    @abstractmethod
    def encode(self, tokens: Float32Array, coding: Coding) -> bytes:
        """Bytes of the tokens.

        Args:
            tokens: finite tokens, [R, C].
            coding: choices that the wire format has; it ignores the others.

        Raises:
            InvalidRequest: a value is too large for the wire format, or a basis is needed and missing.
        """

    @abstractmethod
    def decode(self, data: bytes, num_tokens: int, channels: int, basis: WireBasis | None = None) -> Float32Array:
        """Tokens, [num_tokens, channels], from a hostile body whose size and checksum have been verified.

        Raises:
            InvalidRequest: the body does not have the layout that `encode` writes.
            CheckpointMismatch: the body was written in a basis other than `basis`.
        """

    @abstractmethod
    def expected_bytes(self, num_tokens: int, channels: int, basis: WireBasis | None = None) -> int:
        """Bytes to plan with for [num_tokens, channels] tokens: an upper limit, or an estimate that is close."""

    def exact_bytes(self, num_values: int) -> int | None:
        """Bytes of a body of so many values; None if they depend on the values. A receiver checks them first."""
        return None

    def steps(self, arrays: Sequence[Float32Array], basis: WireBasis, max_bytes: int) -> Sequence[int | None]:
        """Steps to try in turn for at most `max_bytes` of all bodies together; (None,) in formats without a step.

        Args:
            arrays: finite tokens of each tensor, [R, C] each.
            basis: wire basis that is loaded.
            max_bytes: upper limit of the bytes of all bodies together.

        Raises:
            InvalidRequest: the arrays do not fit the basis.
        """
        return (None,)
