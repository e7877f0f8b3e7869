"""Flags of `vllm serve` and of Fovea's services that `fovea up` does not have, and what takes their place there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["REPLACEMENTS", "advice"]

_KV_CACHE: Final = "LLM_KV_CACHE_GIB=N, or LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"gpu_memory_utilization\": 0.9}'"
_PARALLEL: Final = "LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"tensor_parallel_size\": N}'"

REPLACEMENTS: Final = {
    "--host": "--listen HOST:PORT",
    "--port": "--listen HOST:PORT",
    "--api-key": "--keys-file FILE, which fovea keys add NAME --file FILE writes",
    "--max-model-len": "LLM_MAX_MODEL_LEN=N",
    "--gpu-memory-utilization": _KV_CACHE,
    "--kv-cache-gib": _KV_CACHE,
    "--tensor-parallel-size": _PARALLEL,
    "-tp": _PARALLEL,
    "--max-num-seqs": "LLM_MAX_BATCH_SIZE=N",
    "--max-batch-size": "LLM_MAX_BATCH_SIZE=N and ENCODER_MAX_BATCH_SIZE=N",
    "--max-num-batched-tokens": "LLM_MAX_PREFILL_TOKENS=N",
    "--dtype": "LLM_DTYPE=NAME and ENCODER_DTYPE=NAME",
    "--device": "LLM_DEVICE=NAME and ENCODER_DEVICE=NAME",
    "--quantization": "LLM_QUANTIZATION=NAME",
    "-q": "LLM_QUANTIZATION=NAME",
    "--engine": "LLM_ENGINE=NAME",
    "--engine-args": "LLM_ENGINE_ARGS=JSON",
    "--revision": "GATEWAY_REVISION, ENCODER_REVISION and LLM_REVISION",
    "--generation-config": "LLM_GENERATION_DEFAULTS=NAME",
    "--limit-mm-per-prompt": "GATEWAY_MAX_IMAGES=N and GATEWAY_MAX_VIDEOS=N",
    "--max-images": "GATEWAY_MAX_IMAGES=N",
    "--allowed-media-domains": "GATEWAY_FETCH_HOSTS=NAME,...",
    "--fetch-hosts": "GATEWAY_FETCH_HOSTS=NAME,...",
    "--ssl-certfile": "GATEWAY_TLS_CERT=FILE",
    "--ssl-keyfile": "GATEWAY_TLS_KEY=FILE",
    "--enforce-eager": "LLM_CUDA_GRAPHS=off, or LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"enforce_eager\": true}'",
    "--pruner": "ENCODER_PRUNER=NAME, the default of requests that name none",
    "--keep-ratio": "ENCODER_KEEP_RATIO=SHARE, the default of requests without a budget",
    "--keep-tokens": "ENCODER_KEEP_RATIO=SHARE, the default of requests without a budget",
}
"""Options of `fovea up`, or variables of the services, by the flag that they replace."""

_OTHER: Final = (
    "a service's own option is a variable, such as GATEWAY_MAX_IMAGES=4, or a line of --config;"
    " one of vLLM's engine is a name in LLM_ENGINE_ARGS"
)


def advice(words: Sequence[str]) -> str:
    """What to give `fovea up` in place of arguments that it does not have."""
    flags = list(dict.fromkeys(word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")))
    hints = [f"in place of {flag} use {REPLACEMENTS[flag]}" for flag in flags if flag in REPLACEMENTS]
    if not words[0].startswith("-"):
        hints.insert(0, f"the model is named as --model {words[0]}")
    return "; ".join(hints or [_OTHER])
