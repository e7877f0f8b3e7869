"""Prometheus metrics of the LLM service alone."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from fovea.telemetry import BATCH_BUCKETS, SECONDS_BUCKETS

__all__ = [
    "BATCH_SIZE",
    "CUDA_GRAPHS",
    "CUDA_GRAPH_BYTES",
    "GENERATION_TOKENS",
    "KV_CACHE_BYTES",
    "KV_CACHE_USAGE",
    "PREFILL_SECONDS",
    "PROMPT_TOKENS",
    "QUEUE_WAIT_SECONDS",
    "TIME_PER_OUTPUT_TOKEN_SECONDS",
    "TIME_TO_FIRST_TOKEN_SECONDS",
]

# A step of a 7B model takes some 10 ms on a GPU and up to a second on a CPU.
_TOKEN_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0)

# Aborted requests count too: a service that serves none in time must not look idle.
QUEUE_WAIT_SECONDS = Histogram(
    "fovea_queue_wait_seconds", "Queue time of requests to the language model.", buckets=SECONDS_BUCKETS
)
PREFILL_SECONDS = Histogram(
    "fovea_prefill_seconds", "Time from the end of the queue to the first token.", buckets=SECONDS_BUCKETS
)
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "fovea_time_to_first_token_seconds",
    "Time from the arrival of the call to the first token.",
    buckets=SECONDS_BUCKETS,
)
TIME_PER_OUTPUT_TOKEN_SECONDS = Histogram(
    "fovea_time_per_output_token_seconds",
    "Mean time of a token after the first one, per complete answer.",
    buckets=_TOKEN_BUCKETS,
)
BATCH_SIZE = Histogram("fovea_llm_batch_size", "Sequences in a decoding step.", buckets=BATCH_BUCKETS)
PROMPT_TOKENS = Counter("fovea_prompt_tokens_total", "Tokens of prompts that were prefilled, visual tokens included.")
GENERATION_TOKENS = Counter("fovea_generation_tokens_total", "Tokens that were generated, end tokens included.")
KV_CACHE_BYTES = Gauge("fovea_kv_cache_bytes", "Memory of the key-value cache.")
KV_CACHE_USAGE = Gauge("fovea_kv_cache_usage_ratio", "Share of the key-value cache that running sequences hold.")
CUDA_GRAPHS = Gauge("fovea_llm_cuda_graphs", "CUDA graphs that serve.")
CUDA_GRAPH_BYTES = Gauge("fovea_llm_cuda_graph_bytes", "Device memory that CUDA graphs have reserved.")
