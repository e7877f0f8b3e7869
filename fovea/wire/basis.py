"""What the wire dtype `basis` knows of a checkpoint: in which directions its visual tokens vary, and how much.

Learned once from pictures (`python -m encoder_service.calibrate`); `basis_file` reads and writes it.
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

# A coefficient's class is four times the binary logarithm of its spread over the step. Below the lowest it is 0 and
# not sent; above the highest its low bits travel as they are.
MIN_CLASS: Final = -6
MAX_CLASS: Final = 8
MAX_SYMBOL: Final = 24  # most that code: -24 to 24
MAX_STEPS_FINER: Final = 24  # quarters of an octave that a step may be below the default: a 64th
MAX_STEPS_COARSER: Final = 16  # and above: 16 times


@dataclass(frozen=True, eq=False)
class WireBasis:
    """Directions of visual tokens [R, C] and the spread along them.

    Attributes:
        mean: [C].
        synthesis: [C, C]; a token is mean + coefficients @ synthesis.
        alone: [C] level of each coefficient of a token: four times the binary logarithm of its root mean square.
        together: [N, C] the same after a cosine transform along the N tokens of a whole picture; N is 0 where pictures
            differ.
        tables: Of the codes in each class from `MIN_CLASS` to `MAX_CLASS`.
        step: By default, on the scale of the levels; see `step_size`.
        digest: First 8 bytes of the file's SHA-256.
    """

    mean: Float32Array
    synthesis: Float32Array
    alone: Levels
    together: Levels
    tables: rans.Tables
    step: int
    digest: bytes

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def rows(self) -> int:
        """N."""
        return len(self.together)

    @property
    def finest(self) -> int:
        """The least step that is sent or read."""
        return self.step - MAX_STEPS_FINER

    @property
    def coarsest(self) -> int:
        """The largest step that is sent or read."""
        return self.step + MAX_STEPS_COARSER

    @cached_property
    def analysis(self) -> Float32Array:
        """[C, C]; coefficients are (token - mean) @ analysis."""
        return np.asarray(np.linalg.inv(self.synthesis.astype(np.float64)), np.float32)

    def levels(self, rows: int) -> Levels:
        """[rows, C] of tokens that travel as one tensor."""
        return self.together if rows == self.rows else np.broadcast_to(self.alone, (rows, self.channels))


def step_size(step: int) -> float:
    """A step on the scale of the levels, as a number."""
    return float(2.0 ** (step / 4))
