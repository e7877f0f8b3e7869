"""Copies of the features of one image in each stage that Fovea's own code has; run where `copied_bytes.c` is loaded.

Prints a JSON object: by stage, the bytes that memcpy and memmove have copied, over those of the features.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from encoder_service.engine.batching import BatchTiming
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.models.media_features import PatchLayout
from encoder_service.server.responses import WireChoice, write_response
from fovea.rpc.messages import parse
from fovea.v1 import encoder_pb2, llm_pb2, tensor_pb2
from gateway.clients.encoder import EncodeResult
from llm_service.prompts import PromptLimits, read_prompt

TOKENS, CHANNELS = 64, 1024

copied_bytes: Any = ctypes.CDLL(None).copied_bytes
copied_bytes.restype = ctypes.c_ulonglong
found: dict[str, float] = {}


def counted(stage: str, run: Callable[[], Any]) -> Any:
    """Result of the second run, whose copies are counted: the first one imports and allocates what stays."""
    run()
    before = copied_bytes()
    result = run()
    found[stage] = (copied_bytes() - before) / (TOKENS * CHANNELS * 2)
    return result


media = EncodedMedia(
    values=np.random.default_rng(1).normal(size=(TOKENS, CHANNELS)).astype(np.float16),
    positions=np.arange(TOKENS),
    newline_after=np.empty(0, np.int64),
    cluster_of_patch=np.arange(576),
    task_map=None,
    saliency_map=None,
    layout=PatchLayout(1, 24, 24),
    num_tokens_total=576,
    features_cached=False,
)
timing, choice = BatchTiming(1.0, 1.0, 1.0, 1), WireChoice(tensor_pb2.DTYPE_FLOAT16)
response = counted("write", lambda: write_response([media], timing, "desap", "f", choice, explain=False))
received = response.SerializeToString()
reply = counted("gateway parses", lambda: parse(encoder_pb2.EncodeResponse, received))


def generate_request() -> llm_pb2.GenerateRequest:
    """Request with the visual tokens, as the gateway sends it."""
    made = llm_pb2.GenerateRequest(input_ids=[7])
    EncodeResult(reply).add_to(made)
    return made


sent = counted("gateway passes on", generate_request).SerializeToString()
request = counted("LLM service parses", lambda: parse(llm_pb2.GenerateRequest, sent))
limits = PromptLimits(8, 7, CHANNELS, 576, 2048, "f")
prompt = counted("LLM service reads", lambda: read_prompt(request.input_ids, request.visual_tokens, limits))
np.testing.assert_array_equal(prompt.visual_tokens[0].features, media.values.astype(np.float32))
print(json.dumps(found))
