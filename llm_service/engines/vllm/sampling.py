"""Our sampling parameters in vLLM's words."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from llm_service.engines.row import Row

__all__ = ["decoding", "first_token"]


def decoding(row: Row, eos_token_ids: frozenset[int], seed: int | None) -> SamplingParams:
    """Ids as they come. Text and stop strings are `Row`'s business, so that they are the same with every engine.

    Args:
        row: What is asked for.
        eos_token_ids: Any of them ends the answer, and is part of it.
        seed: Of this answer alone.
    """
    sampling = row.request.sampling
    return SamplingParams(
        max_tokens=row.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        stop_token_ids=sorted(eos_token_ids),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def first_token() -> SamplingParams:
    """The distribution of the first token, before temperature and nucleus."""
    return SamplingParams(
        max_tokens=1, temperature=0, logprobs=-1, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
