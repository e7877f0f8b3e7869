"""Prometheus metrics of the gateway alone."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from fovea.telemetry import SECONDS_BUCKETS

__all__ = [
    "ANSWERS_RUNNING",
    "ENCODE_SECONDS",
    "GENERATE_SECONDS",
    "KEY_REQUESTS",
    "KEY_TOKENS",
    "TIME_TO_FIRST_TOKEN_SECONDS",
    "VISUAL_TOKENS_KEPT",
    "VISUAL_TOKENS_TOTAL",
    "WIRE_BYTES",
]

ANSWERS_RUNNING = Gauge("fovea_gateway_answers_running", "Answers in progress.")
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "fovea_gateway_time_to_first_token_seconds",
    "Time from the arrival of the HTTP request to the first token.",
    buckets=SECONDS_BUCKETS,
)
ENCODE_SECONDS = Histogram(
    "fovea_gateway_encode_seconds",
    "Time for the visual tokens of an answer, from the cache or by the encoder service.",
    ["cache"],
    buckets=SECONDS_BUCKETS,
)
GENERATE_SECONDS = Histogram(
    "fovea_gateway_generate_seconds",
    "Time of the call to the LLM service for an answer, network and queue included.",
    buckets=SECONDS_BUCKETS,
)
VISUAL_TOKENS_TOTAL = Counter(
    "fovea_gateway_visual_tokens_total", "Visual tokens before pruning, as the encoder replied."
)
VISUAL_TOKENS_KEPT = Counter("fovea_gateway_visual_tokens_kept_total", "Visual tokens that the encoder returned.")
WIRE_BYTES = Counter("fovea_wire_bytes_total", "Bytes of visual tokens sent to the LLM service.")
KEY_REQUESTS = Counter(
    "fovea_gateway_key_requests_total", "Requests of the API, by name of the API key and outcome.", ["key", "code"]
)
KEY_TOKENS = Counter(
    "fovea_gateway_key_tokens_total", "Tokens of prompts and answers, by name of the API key.", ["key", "kind"]
)
