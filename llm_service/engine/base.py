"""Interface between the servicer and the engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fovea.budget import Budget
from llm_service.prompts import Prompt
from llm_service.pruners.base import AnyLlmPruningMethod
from llm_service.pruners.plan import BoundLlmPruner
from llm_service.sampling import SamplingParams

__all__ = [
    "CrossAttention",
    "Delta",
    "Done",
    "Generation",
    "GenerationRequest",
    "GenerationTiming",
    "LLMEngine",
    "PruningParams",
    "TokenLogprob",
    "TopLogprob",
]


@dataclass(frozen=True)
class PruningParams:
    """Pruning inside the language model: the method with its parameters, and its budget."""

    pruner: BoundLlmPruner
    budget: Budget


@dataclass(frozen=True)
class CrossAttention:
    """Request for the attention of the last prompt token to the visual tokens, mean over the heads.

    Attributes:
        layer: Layer index, from 0; None for layer 2 of 32, scaled to the model's depth.
    """

    layer: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One validated request.

    Attributes:
        prompt: Token ids and visual tokens.
        sampling: Sampling parameters.
        deadline: Time at which the caller gives up, in seconds of `time.monotonic`.
        first_token_logprobs: Flag: report the whole distribution of the first generated token.
        pruning: Pruning inside the model; None for none.
        cross_attention: Attention to report; None for none.
        top_logprobs: Number of most probable tokens to report for each token of the text, with its log-probability;
            None for no log-probabilities.
        cache_salt: Tenant whose cached keys and values of prompts may be used; empty for those without a salt.
    """

    prompt: Prompt
    sampling: SamplingParams
    deadline: float
    first_token_logprobs: bool = False
    pruning: PruningParams | None = None
    cross_attention: CrossAttention | None = None
    top_logprobs: int | None = None
    cache_salt: str = ""


@dataclass(frozen=True)
class TopLogprob:
    """A token and its natural logarithm of the probability, before temperature, filters and penalties.

    Attributes:
        token_id: Id.
        token: Bytes, see `TokenBytes`.
        logprob: Log-probability.
    """

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True)
class TokenLogprob(TopLogprob):
    """A token of the text, and the most probable tokens in its place, in descending order."""

    top: tuple[TopLogprob, ...]


@dataclass(frozen=True)
class Delta:
    """A piece of the answer.

    Attributes:
        text: Whole characters, final once emitted; may be empty if there are log-probabilities.
        logprobs: Tokens of which `text` has the first characters, or that have no text, if requested.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class GenerationTiming:
    """Milliseconds from arrival to admission, to the first token and to the end."""

    queue_ms: float
    time_to_first_token_ms: float
    generate_ms: float


@dataclass(frozen=True)
class Done:
    """End of an answer.

    Attributes:
        finish_reason: "stop" (end token or stop string) or "length" (max_tokens reached, or context full).
        prompt_tokens: Number of prefilled tokens, visual tokens included.
        token_ids: Generated ids, the end token included.
        completion_tokens: Number of generated tokens without the end token that ended the answer.
        timing: Milliseconds since arrival.
        first_token_logprobs: [V] natural logarithms if requested, else empty.
        visual_tokens_by_layer: [L] visual tokens that each layer attends over in the prefill; empty if none were pruned
            inside the model.
        cross_attention: [N], one weight for each visual token of the request, if requested, else empty.
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
    """An answer being generated: any number of deltas, then one `Done` or a ServiceError."""

    def __aiter__(self) -> AsyncIterator[Delta | Done]: ...

    def abort(self) -> None:
        """Stops the generation, waiting or running. May be called at any time and repeatedly."""
        ...


class LLMEngine(Protocol):
    """An engine: runs a language model on a thread of its own."""

    @property
    def name(self) -> str:
        """Name in the settings ("transformers", "vllm")."""
        ...

    @property
    def pruners(self) -> Mapping[str, AnyLlmPruningMethod]:
        """Pruning methods that the engine can run inside the model, by name; may be empty."""
        ...

    @property
    def sampling_parameters(self) -> tuple[str, ...]:
        """Names of the fields of `SamplingParams` that the engine applies."""
        ...

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests. Thread-safe."""
        ...

    @property
    def queue_time_s(self) -> float:
        """Estimated queue time of the next request, in seconds; 0 without evidence. Thread-safe."""
        ...

    @property
    def num_running(self) -> int:
        """Number of running requests. Thread-safe."""
        ...

    def start(self, on_death: Callable[[], object] = lambda: None) -> None:
        """Starts to serve submitted requests.

        Args:
            on_death: Callback for an engine that can no longer serve although `stop` was not called. It is called once,
                from any thread, after all open requests have ended with Unavailable.
        """
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Queues a request. Must be called on the event loop that reads the answer.

        Raises:
            Overloaded: The queue is full, or the answer cannot be finished in time.
            DeadlineExceeded: The deadline has already passed.
            Unavailable: The engine has stopped or died.
            InvalidRequest: The engine does not support the pruning, its budget, the attention or a sampling parameter
                of the request.
        """
        ...

    def stop(self) -> None:
        """Ends all open requests with Unavailable and joins the thread."""
        ...
