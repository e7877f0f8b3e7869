"""Interface between a running batch and the runners of its forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

__all__ = ["ChunkedPrefill", "Inputs", "PromptInputs", "Runner"]


class PromptInputs(Protocol):
    """What a runner prefills: a prompt of `length` tokens."""

    @property
    def length(self) -> int: ...


Inputs = TypeVar("Inputs", bound=PromptInputs)
Inputs_contra = TypeVar("Inputs_contra", contravariant=True)


class Runner(Protocol[Inputs_contra]):
    """Runner of a batch's forward passes; its sequences are in the order of their prefills. See `ModelRunner`."""

    def clear(self) -> None: ...

    def prefill(self, prompts: Sequence[Inputs_contra]) -> Tensor: ...

    def decode(self, token_ids: Tensor) -> Tensor: ...

    def keep(self, indices: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class ChunkedPrefill(Generic[Inputs]):
    """Prefill of long prompts in chunks between decoding steps.

    Attributes:
        max_prefill_tokens: Most tokens that are prefilled between two decoding steps.
        prefill_chunk: Function that runs some tokens of a prompt; see `ModelRunner.prefill_chunk`.
    """

    max_prefill_tokens: int
    prefill_chunk: Callable[[Inputs, int, int], Tensor]
