"""Prometheus metrics of the gateway alone."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ANSWERS_RUNNING",
    "CACHE_LOOKUPS",
    "TIME_TO_FIRST_TOKEN_SECONDS",
    "VISUAL_TOKENS_KEPT",
    "VISUAL_TOKENS_TOTAL",
    "WIRE_BYTES",
]

ANSWERS_RUNNING = Gauge("fovea_gateway_answers_running", "Answers in progress.")
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "fovea_gateway_time_to_first_token_seconds", "Time from the arrival of the HTTP request to the first token."
)
VISUAL_TOKENS_TOTAL = Counter(
    "fovea_gateway_visual_tokens_total", "Visual tokens before pruning, as the encoder replied."
)
VISUAL_TOKENS_KEPT = Counter("fovea_gateway_visual_tokens_kept_total", "Visual tokens that the encoder returned.")
WIRE_BYTES = Counter("fovea_wire_bytes_total", "Bytes of visual tokens sent to the LLM service.")
CACHE_LOOKUPS = Counter("fovea_cache_lookups_total", "Look-ups in the gateway's caches.", ["level", "outcome"])
