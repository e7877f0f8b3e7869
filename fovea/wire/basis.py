"""Learned basis of the wire format `basis`: the directions in which a checkpoint's visual tokens vary, and the spread.

`python -m encoder_service.calibrate` learns a basis from images; `basis_file` reads and writes its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from fovea.wire import rans

__all__ = [
    "DIGEST_BYTES",
    "MAX_CLASS",
    "MAX_STEPS_COARSER",
    "MAX_STEPS_FINER",
    "MAX_SYMBOL",
    "MIN_CLASS",
    "WireBasis",
    "step_size",
]

Float32Array = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int64]

DIGEST_BYTES: Final = 8

# The class of a coefficient is four times the binary logarithm of its spread divided by the step. A coefficient below
# the lowest class is 0 and not sent; above the highest class its low bits are sent without coding.
MIN_CLASS: Final = -6
MAX_CLASS: Final = 8
MAX_SYMBOL: Final = 24  # coded symbols are -24 to 24
MAX_STEPS_FINER: Final = 24  # a step may be this many quarter octaves below the default: a 64th
MAX_STEPS_COARSER: Final = 16  # and this many above the default: 16 times


@dataclass(frozen=True, eq=False)
class WireBasis:
    """Directions of visual tokens of C channels, and the spread along them.

    Attributes:
        mean: mean token, [C].
        synthesis: matrix of the directions, [C, C]; a token is mean + coefficients @ synthesis.
        token_levels: level of each coefficient of one token, [C]: four times the binary logarithm of its root mean
            square. The tensor `alone` of the file.
        image_levels: levels after a cosine transform along the N tokens of a whole image, [N, C]; N is 0 where images
            have different numbers of tokens. The tensor `together` of the file.
        tables: frequency tables of the symbols, one for each class from `MIN_CLASS` to `MAX_CLASS`.
        step: default step on the scale of the levels, see `step_size`.
        digest: first 8 bytes of the file's SHA-256.
    """

    mean: Float32Array
    synthesis: Float32Array
    token_levels: Levels
    image_levels: Levels
    tables: rans.FrequencyTables
    step: int
    digest: bytes

    @property
    def channels(self) -> int:
        """Channels of a token, C."""
        return len(self.mean)

    @property
    def tokens_per_image(self) -> int:
        """Tokens of a whole image, N; 0 where images differ."""
        return len(self.image_levels)

    @property
    def finest(self) -> int:
        """Smallest step that is written or read."""
        return self.step - MAX_STEPS_FINER

    @property
    def coarsest(self) -> int:
        """Largest step that is written or read."""
        return self.step + MAX_STEPS_COARSER

    @cached_property
    def analysis(self) -> Float32Array:
        """Inverse of `synthesis`, [C, C]; coefficients are (token - mean) @ analysis."""
        return np.asarray(np.linalg.inv(self.synthesis.astype(np.float64)), np.float32)


def step_size(step: int) -> float:
    """Step as a number, from a step on the scale of the levels: 2 ** (step / 4)."""
    return float(2.0 ** (step / 4))
