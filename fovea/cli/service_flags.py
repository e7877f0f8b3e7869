"""Flags of `vllm serve` and of Fovea's services that `fovea up` does not have, and what takes their place there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from fovea.cli.parsing import near_flag, written_flag
from fovea.cli.service_variables import service_variables

__all__ = ["REPLACEMENTS", "WITHOUT_REPLACEMENT", "advice", "remedy"]

_KV_CACHE: Final = "LLM_KV_CACHE_GIB=N, or LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"gpu_memory_utilization\": 0.9}'"
_QUANTIZATION: Final = (
    "LLM_QUANTIZATION=int8 or LLM_QUANTIZATION=nf4, which quantizes at load; a checkpoint that is quantized already"
    " (AWQ, GPTQ, FP8) needs LLM_ENGINE=vllm"
)
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
    "--quantization": _QUANTIZATION,
    "-q": _QUANTIZATION,
    "--engine": "LLM_ENGINE=vllm or LLM_ENGINE=transformers",
    "--engine-args": "LLM_ENGINE_ARGS=JSON with LLM_ENGINE=vllm",
    "--revision": "GATEWAY_REVISION, ENCODER_REVISION and LLM_REVISION",
    "--generation-config": "LLM_GENERATION_DEFAULTS=NAME; accepted: greedy, full (vLLM's auto) and none (vLLM's vllm)",
    "--limit-mm-per-prompt": "GATEWAY_MAX_IMAGES=N and GATEWAY_MAX_VIDEOS=N",
    "--max-tokens": "GATEWAY_MAX_TOKENS=N and LLM_MAX_TOKENS=N",
    "--allowed-media-domains": "GATEWAY_FETCH_HOSTS=NAME,...",
    "--allowed-origins": "GATEWAY_CORS_ORIGINS=URL,...",
    "--uvicorn-log-level": "GATEWAY_LOG_LEVEL=NAME",
    "--ssl-certfile": "GATEWAY_TLS_CERT=FILE",
    "--ssl-keyfile": "GATEWAY_TLS_KEY=FILE",
    "--tls-cert": "GATEWAY_TLS_CERT=FILE",
    "--tls-key": "GATEWAY_TLS_KEY=FILE",
    "--wire-basis": "ENCODER_WIRE_BASIS=FILE and LLM_WIRE_BASIS=FILE",
    "--enforce-eager": "LLM_CUDA_GRAPHS=off, or LLM_ENGINE=vllm with LLM_ENGINE_ARGS='{\"enforce_eager\": true}'",
    "--pruner": "ENCODER_PRUNER=NAME, the default of requests that name none",
    "--keep-ratio": "ENCODER_KEEP_RATIO=SHARE, the default of requests without a budget",
    "--keep-tokens": "ENCODER_KEEP_RATIO=SHARE, the default of requests without a budget",
}
"""Options of `fovea up`, or variables of the services, by the flag that they replace.

A flag of a service has a line only where the advice is not simply its variables."""

_NO_TOOLS: Final = "no tools are called here (docs/openai.md)"
_ADDRESS: Final = "fovea up starts this service itself and chooses its address"
WITHOUT_REPLACEMENT: Final = {
    "--mm-processor-kwargs": "the sizes of images are those of the checkpoint's preprocessor_config.json, and"
    " keep_tokens bounds their visual tokens (docs/openai.md)",
    "--allowed-local-media-path": "no file of this machine is read for a client; clients send data URLs, or https URLs"
    " of the hosts in GATEWAY_FETCH_HOSTS",
    "--trust-remote-code": "it is not needed, because only known families are loaded and no code of a checkpoint is"
    " run (docs/models.md)",
    "--chat-template": "the chat template is the checkpoint's own",
    "--tokenizer": "the tokenizer is the checkpoint's own",
    "--enable-auto-tool-choice": _NO_TOOLS,
    "--tool-call-parser": _NO_TOOLS,
    "--media-io-kwargs": 'a request chooses the frames of its video, {"fovea": {"num_frames": N}}, up to'
    " GATEWAY_MAX_VIDEO_FRAMES",
    "--ssl-ca-certs": "the gateway knows its clients by API keys (--keys-file), not by certificates",
    "--gpu": "docker compose reads it; CUDA_VISIBLE_DEVICES chooses the GPU of a process (docs/scaling.md)",
    "--root-path": "paths begin at /; a reverse proxy can take a prefix away",
    "--encoder": _ADDRESS,
    "--llm": _ADDRESS,
}
"""What is so without the flag, by flags that nothing replaces."""

_OTHER: Final = (
    "a service's own option is a variable, such as GATEWAY_MAX_IMAGES=4, or a line of --config;"
    " one of vLLM's engine is a name in LLM_ENGINE_ARGS, with LLM_ENGINE=vllm"
)


def advice(words: Sequence[str], given: argparse.Namespace) -> str:
    """What to give `fovea up` in place of arguments that it does not have.

    Args:
        words: these arguments.
        given: the other arguments.
    """
    # A negative number is a value.
    # vLLM writes a key of a JSON value behind a dot: --limit-mm-per-prompt.image 4.
    flags = [flag for flag in map(written_flag, words) if flag]
    hints = sorted((_hint(flag, given.parser.flags) for flag in flags), key=lambda hint: hint == _OTHER)
    if not words[0].startswith("-"):
        hints.insert(0, _of_a_name(words[0], given))
    return "; ".join(dict.fromkeys(hints)) or _OTHER


def remedy(flag: str) -> str:
    """What helps in place of a flag that `fovea up` does not have: "use ...", or what is so without it.

    Args:
        flag: flag with its dashes.

    Returns:
        text, which is empty for a flag that neither `vllm serve` nor a service is known to have.
    """
    if flag in WITHOUT_REPLACEMENT:
        return WITHOUT_REPLACEMENT[flag]
    choice = _replacement(flag)
    return f"use {choice}" if choice else ""


def _replacement(flag: str) -> str:
    if flag in REPLACEMENTS:
        return REPLACEMENTS[flag]
    *others, last = service_variables().get(flag, ("",))
    return f"{', '.join(others)} or {last}, each for one service" if others else last


def _hint(flag: str, own: Sequence[str]) -> str:
    """Hint about a flag.

    Args:
        flag: flag with its dashes.
        own: flags of `fovea up`.
    """
    if flag in WITHOUT_REPLACEMENT:
        return f"{flag}: {WITHOUT_REPLACEMENT[flag]}"
    if flag in own:  # written with underscores, as vLLM takes it
        return f"did you mean {flag}?"
    if choice := _replacement(flag):
        return f"in place of {flag} use {choice}"
    if near := near_flag(flag, own):
        return f"did you mean {near}?"
    if near := near_flag(flag, [*REPLACEMENTS, *service_variables()]):
        return f"did you mean {near}? In its place use {_replacement(near)}"
    return _OTHER


def _of_a_name(name: str, given: argparse.Namespace) -> str:
    if given.model is None:
        return f"the model is named as --model {name}"
    if given.served_model_name is None:
        return "--model is given already; one checkpoint is accepted"
    return "one checkpoint is accepted after --model, and one name after --served-model-name"
