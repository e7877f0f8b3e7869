"""What the servicer needs of an engine, whichever runs the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from llm_service.prompts import Prompt
from llm_service.sampling import SamplingParams

__all__ = ["Delta", "Done", "Engine", "Generation", "GenerationRequest", "GenerationTiming"]


@dataclass(frozen=True)
class GenerationRequest:
    """One checked request.

    Attributes:
        prompt: Ids and visual tokens.
        sampling: How to choose tokens.
        deadline: When the caller stops waiting, on the clock of `time.monotonic`, in seconds.
        first_token_logprobs: Report the whole distribution of the first generated token.
    """

    prompt: Prompt
    sampling: SamplingParams
    deadline: float
    first_token_logprobs: bool = False


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
    """

    finish_reason: str
    prompt_tokens: int
    token_ids: list[int]
    completion_tokens: int
    timing: GenerationTiming
    first_token_logprobs: list[float] = field(default_factory=list, repr=False)


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

    def start(self) -> None:
        """Begins to serve what is submitted."""
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request; call it on the event loop that will read the answer.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The deadline has passed already.
            Unavailable: The engine has stopped.
        """
        ...

    def stop(self) -> None:
        """Ends what is still under way with Unavailable and waits for the thread."""
        ...
