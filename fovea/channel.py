"""The client end of a gRPC leg."""

from __future__ import annotations

import json
from typing import Any

import grpc
import grpc.aio

__all__ = ["connect", "message_options"]


def message_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """gRPC's own cap of 4 MiB is below 576 x 4096 values in fp16, so both ends set theirs."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
    ]


def connect(target: str, *, max_message_bytes: int) -> grpc.aio.Channel:
    """An insecure channel that spreads calls over all addresses of `target` and retries what never reached a service.

    Args:
        target: "host:port", or "dns:///name:port" for a headless Kubernetes service.
        max_message_bytes: Cap on a message in either direction.
    """
    retry = {
        "methodConfig": [
            {
                "name": [{"service": "fovea.v1.EncoderService"}, {"service": "fovea.v1.LLMService"}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
        "loadBalancingConfig": [{"round_robin": {}}],
    }
    return grpc.aio.insecure_channel(
        target,
        options=[
            *message_options(max_message_bytes),
            ("grpc.service_config", json.dumps(retry)),
            # Without these a pod that comes back is found only after up to two minutes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            # The server allows one ping in 20 s (fovea.server); below that it answers with GOAWAY.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
    )
