"""Conversion of sampling parameters into vLLM's."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from llm_service.engine.sequence import Sequence

__all__ = ["answer_params", "first_token_params"]


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
