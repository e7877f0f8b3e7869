"""What the servicer needs of an engine, whichever runs the model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llm_service.prompts import Prompt
from llm_service.pruners.base import AnyPruner
from llm_service.pruners.plan import BoundPruner, Budget
from llm_service.sampling import SamplingParams

__all__ = [
    "CrossAttention",
    "Delta",
    "Done",
    "Engine",
    "Generation",
    "GenerationRequest",
    "GenerationTiming",
    "Pruning",
]


@dataclass(frozen=True)
class Pruning:
    """A method that drops visual tokens inside the language model, and how many it leaves."""

    pruner: BoundPruner
    budget: Budget


@dataclass(frozen=True)
class CrossAttention:
    """Attention of the last prompt token to the visual tokens, mean over the heads.

    Attributes:
        layer: Counted from 0; None: layer 2 of 32, scaled to the model's depth.
    """

    layer: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One checked request.

    Attributes:
        prompt: Ids and visual tokens.
        sampling: How to choose tokens.
        deadline: When the caller stops waiting, on the clock of `time.monotonic`, in seconds.
        first_token_logprobs: Report the whole distribution of the first generated token.
        pruning: What to do with the visual tokens inside the model; None: nothing.
        cross_attention: Which row of attention to report; None: none.
    """

    prompt: Prompt
    sampling: SamplingParams
    deadline: float
    first_token_logprobs: bool = False
    pruning: Pruning | None = None
    cross_attention: CrossAttention | None = None


@dataclass(frozen=True)
class Delta:
    """A piece of text: whole characters, never taken back."""

    text: str


@dataclass(frozen=True)
class GenerationTiming:
    """Milliseconds since arrival: admitted to the batch, first token, end."""

    queue_ms: float
    time_to_first_token_ms: float
    generate_ms: float


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        finish_reason: "stop" (end token or stop string) or "length" (max_tokens, or the context is full).
        prompt_tokens: Prefilled, visual tokens included.
        token_ids: Generated, the end token included where it came.
        completion_tokens: Generated, the end token not counted.
        first_token_logprobs: [V] natural logarithms where asked for, else empty.
        visual_tokens_by_layer: [L] visual tokens that each layer attended over in the prefill; empty where none were
            pruned inside the model.
        cross_attention: [N] for each visual token of the request, where asked for, else empty.
    """

    finish_reason: str
    prompt_tokens: int
    token_ids: list[int]
    completion_tokens: int
    timing: GenerationTiming
    first_token_logprobs: list[float] = field(default_factory=list, repr=False)
    visual_tokens_by_layer: tuple[int, ...] = ()
    cross_attention: list[float] = field(default_factory=list, repr=False)


class Generation(Protocol):
    """An answer under way: any number of deltas, then one `Done`, or a ServiceError."""

    def __aiter__(self) -> AsyncIterator[Delta | Done]: ...

    def cancel(self) -> None:
        """Frees the row, waiting or running. Harmless at any time, any number of times."""
        ...


class Engine(Protocol):
    """Runs a model on a thread of its own."""

    @property
    def name(self) -> str:
        """As in the settings ("transformers")."""
        ...

    @property
    def pruners(self) -> Mapping[str, AnyPruner]:
        """What it can run inside the model, by name; empty for an engine that cannot prune there."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a row; safe to ask from any thread."""
        ...

    @property
    def num_running(self) -> int:
        """Requests that have a row; safe to ask from any thread."""
        ...

    def start(self) -> None:
        """Begins to serve what is submitted."""
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; call it on the event loop that will read the answer.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline has passed already.
            Unavailable: The engine has stopped.
            InvalidRequest: The engine cannot prune as asked, or not to that budget, or cannot report attention.
        """
        ...

    def stop(self) -> None:
        """Ends what is still under way with Unavailable and waits for the thread."""
        ...
