"""Prometheus metrics of the LLM service alone."""

from __future__ import annotations

from prometheus_client import Gauge, Histogram

__all__ = ["CUDA_GRAPHS", "CUDA_GRAPH_BYTES", "QUEUE_WAIT_SECONDS", "TIME_TO_FIRST_TOKEN_SECONDS"]

# Aborted requests count too: a service that serves none in time must not look idle.
QUEUE_WAIT_SECONDS = Histogram("fovea_queue_wait_seconds", "Queue time of requests to the language model.")
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "fovea_time_to_first_token_seconds", "Time from the arrival of the call to the first token."
)
CUDA_GRAPHS = Gauge("fovea_llm_cuda_graphs", "CUDA graphs that serve.")
CUDA_GRAPH_BYTES = Gauge("fovea_llm_cuda_graph_bytes", "Device memory that CUDA graphs have reserved.")
