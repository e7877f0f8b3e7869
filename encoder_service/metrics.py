"""Prometheus metrics of the encoder service alone."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "CUDA_GRAPHS",
    "CUDA_GRAPH_BYTES",
    "FORWARD_SECONDS",
    "QUEUE_WAIT_SECONDS",
    "VISUAL_TOKENS_KEPT",
    "VISUAL_TOKENS_TOTAL",
]

# Aborted requests count too: a service that serves none in time must not look idle.
QUEUE_WAIT_SECONDS = Histogram("fovea_encoder_queue_wait_seconds", "Queue time of requests to the encoder.")
FORWARD_SECONDS = Histogram("fovea_encoder_forward_seconds", "Time of vision tower, text tower and pruner per batch.")
VISUAL_TOKENS_TOTAL = Counter("fovea_visual_tokens_total", "Visual tokens before pruning.")
VISUAL_TOKENS_KEPT = Counter("fovea_visual_tokens_kept_total", "Visual tokens after pruning.")
CUDA_GRAPHS = Gauge("fovea_encoder_cuda_graphs", "CUDA graphs that serve.")
CUDA_GRAPH_BYTES = Gauge("fovea_encoder_cuda_graph_bytes", "Device memory that CUDA graphs have reserved.")
