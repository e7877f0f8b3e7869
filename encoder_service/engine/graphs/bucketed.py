"""A function of batches that is captured for a few batch sizes, and replayed for the next larger one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fovea.modeling.capture import Capture, Captured, agrees

__all__ = ["Bucketed", "Function"]

Function: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""From tensors [B, ...] to tensors [B, ...]; row i of the outputs depends on row i of the inputs alone."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    size: int
    inputs: tuple[Tensor, ...]
    captured: Captured


class Bucketed:
    """A function that is replayed where a bucket holds the batch.

    The rows of a smaller batch are the first of the bucket. The rows after them hold what an earlier batch left there,
    which is computed, too, and not looked at. Outputs are copied, since the next replay writes into the same memory.

    Args:
        function: The function.
        example: Function from a batch size to random inputs, other ones in each call.
    """

    def __init__(self, function: Function, example: Callable[[int], Sequence[Tensor]]) -> None:
        self._function = function
        self._example = example
        self._buckets: list[_Bucket] = []

    @property
    def sizes(self) -> list[int]:
        """Batch sizes of the buckets that serve, ascending."""
        return [bucket.size for bucket in self._buckets]

    @torch.inference_mode()
    def add(self, size: int, capture: Capture) -> bool:
        """Captures the function for batches of `size`, and keeps the capture if it equals the function.

        Returns:
            Whether it is kept: whether a replay on other inputs gave the same as the function; see `agrees`.
        """
        inputs = tuple(tensor.clone() for tensor in self._example(size))
        captured = capture(lambda: self._function(*inputs))
        for static, other in zip(inputs, self._example(size), strict=True):
            static.copy_(other)
        captured.replay()
        if not agrees(captured.outputs, self._function(*inputs)):
            return False
        self._buckets.append(_Bucket(size, inputs, captured))
        self._buckets.sort(key=lambda bucket: bucket.size)
        return True

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...] | None:
        """Outputs for a batch; None where no bucket holds it, or where its rows have other shapes or dtypes."""
        size = len(inputs[0])
        bucket = next((bucket for bucket in self._buckets if bucket.size >= size), None)
        if bucket is None or not all(map(_fits, inputs, bucket.inputs)):
            return None
        for static, given in zip(bucket.inputs, inputs, strict=True):
            static[:size].copy_(given)
        bucket.captured.replay()
        return tuple(output[:size].clone() for output in bucket.captured.outputs)


def _fits(given: Tensor, static: Tensor) -> bool:
    return given.shape[1:] == static.shape[1:] and given.dtype == static.dtype and given.device == static.device
