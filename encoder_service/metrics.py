"""Prometheus metrics of the encoder service alone."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from fovea.telemetry import BATCH_BUCKETS, SECONDS_BUCKETS

__all__ = [
    "BATCH_SIZE",
    "CUDA_GRAPHS",
    "CUDA_GRAPH_BYTES",
    "FEATURE_CACHE_BYTES",
    "FORWARD_SECONDS",
    "PREPROCESSING_SECONDS",
    "PRUNING_SECONDS",
    "QUEUE_WAIT_SECONDS",
    "TEXT_TOWER_SECONDS",
    "TOWER_SECONDS",
    "VISUAL_TOKENS_KEPT",
    "VISUAL_TOKENS_TOTAL",
]

# Aborted requests count too: a service that serves none in time must not look idle.
QUEUE_WAIT_SECONDS = Histogram(
    "fovea_encoder_queue_wait_seconds", "Queue time of requests to the encoder.", buckets=SECONDS_BUCKETS
)
PREPROCESSING_SECONDS = Histogram(
    "fovea_encoder_preprocessing_seconds",
    "Time in which the images and videos of a request were decoded and preprocessed.",
    buckets=SECONDS_BUCKETS,
)
FORWARD_SECONDS = Histogram(
    "fovea_encoder_forward_seconds",
    "Time of vision tower, text tower and pruner per batch.",
    buckets=SECONDS_BUCKETS,
)
TOWER_SECONDS = Histogram(
    "fovea_encoder_tower_seconds", "Time of the vision tower per batch that needed it.", buckets=SECONDS_BUCKETS
)
TEXT_TOWER_SECONDS = Histogram(
    "fovea_encoder_text_tower_seconds", "Time of the text tower per batch that needed it.", buckets=SECONDS_BUCKETS
)
PRUNING_SECONDS = Histogram(
    "fovea_encoder_pruning_seconds", "Time of pruners and of the copy to the CPU per batch.", buckets=SECONDS_BUCKETS
)
BATCH_SIZE = Histogram("fovea_encoder_batch_size", "Requests in a batch.", buckets=BATCH_BUCKETS)
VISUAL_TOKENS_TOTAL = Counter("fovea_visual_tokens_total", "Visual tokens before pruning.")
VISUAL_TOKENS_KEPT = Counter("fovea_visual_tokens_kept_total", "Visual tokens after pruning.")
FEATURE_CACHE_BYTES = Gauge("fovea_encoder_feature_cache_bytes", "Memory that the cache of features takes.")
CUDA_GRAPHS = Gauge("fovea_encoder_cuda_graphs", "CUDA graphs that serve.")
CUDA_GRAPH_BYTES = Gauge("fovea_encoder_cuda_graph_bytes", "Device memory that CUDA graphs have reserved.")
