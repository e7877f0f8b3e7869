"""Ranges of the options of a generation that command line, gateway and LLM service accept alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["SAMPLING_RANGES", "TOP_LOGPROBS", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Range of numbers, both ends included; as text "0.01 to 10"."""

    minimum: float
    maximum: float

    def accepts(self, value: float) -> bool:
        """Whether a value is in the range; false for NaN."""
        return self.minimum <= value <= self.maximum

    def __str__(self) -> str:
        return f"{self.minimum:g} to {self.maximum:g}"


SAMPLING_RANGES: Final[Mapping[str, Range]] = {
    "temperature": Range(0, 2),
    "min_p": Range(0, 1),
    # A smaller divisor, or a larger factor, could make a logit infinite.
    "repetition_penalty": Range(0.01, 10),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
}
"""Ranges by name. `top_p` and `top_k` are not among them: the ends that are accepted differ between the three."""

TOP_LOGPROBS: Final = Range(0, 20)
"""Range of the number of most probable tokens that are reported for each token."""
