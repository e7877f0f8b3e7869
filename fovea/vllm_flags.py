"""Flags of `vllm serve`, and others that people try, with what takes their place here."""

from __future__ import annotations

from typing import Final

__all__ = ["REPLACEMENTS", "WITHOUT_REPLACEMENT"]

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
    "--limit-mm-per-prompt": "GATEWAY_MAX_IMAGES=N and GATEWAY_MAX_VIDEOS=N, up to the limits of the model's family,"
    " which no setting raises: 8 images, and 4 videos or none (docs/models.md)",
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
"""Options of `fovea up` and of the services, or variables of the services, by the flag that they replace.

A flag of a service has a line only where the advice is not simply its variables."""

_NO_TOOLS: Final = "no tools are called here (docs/openai.md)"
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
}
"""What is so without the flag, by flags that nothing replaces."""
