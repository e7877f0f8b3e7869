"""Conversion of sampling parameters into vLLM's."""

from __future__ import annotations

from collections.abc import Iterator

from vllm import CompletionOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

from llm_service.engine.sequence import Sequence
from llm_service.engine.token_logprobs import ChosenLogprobs

__all__ = ["answer_params", "chosen_logprobs", "first_token_params"]


def answer_params(sequence: Sequence, eos_token_ids: frozenset[int], seed: int | None) -> SamplingParams:
    """Parameters of an answer. vLLM returns ids only; `Sequence` makes the text, the same for every engine.

    Args:
        sequence: The sequence to decode.
        eos_token_ids: Ids that end the answer and are part of it.
        seed: Seed of this answer; None for a random one.
    """
    sampling = sequence.request.sampling
    return SamplingParams(
        max_tokens=sequence.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=seed,
        logprobs=sequence.request.top_logprobs,
        # The end tokens are those of Fovea's defaults of generation, not those that vLLM reads.
        stop_token_ids=[] if sampling.ignore_eos else sorted(eos_token_ids),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def first_token_params() -> SamplingParams:
    """Parameters of a prefill that reports the distribution of the first token in the model's raw logits."""
    return SamplingParams(
        max_tokens=1, temperature=0, logprobs=-1, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )


def chosen_logprobs(output: CompletionOutput, num_top: int | None) -> Iterator[tuple[int, ChosenLogprobs | None]]:
    """Ids of new tokens, with the log-probabilities in their places.

    They are those of the raw logits: `logprobs_mode` of `engine_arguments`.

    Args:
        output: New tokens of an answer.
        num_top: Number of most probable tokens; None for no log-probabilities.
    """
    for i, token_id in enumerate(output.token_ids):
        if num_top is None:
            yield token_id, None
            continue
        # By id: the `num_top` most probable tokens, and the chosen one if it is none of them.
        by_id = output.logprobs[i]
        ranked = sorted((one.rank, top_id, one.logprob) for top_id, one in by_id.items())[:num_top]
        yield token_id, ChosenLogprobs(by_id[token_id].logprob, [(top_id, logprob) for _, top_id, logprob in ranked])
