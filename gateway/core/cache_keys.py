"""Cache keys: digests of the messages of a question's calls, and of the fingerprints of the services.

A key is a digest of whole messages, so it depends on every option. `VERSION` is raised whenever the meaning of a cached
value changes, and when a gateway of an earlier version could not read it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Final

from fovea.v1 import encoder_pb2
from gateway.core.canonical import canonical_digest
from gateway.core.generate_spec import GenerateSpec

__all__ = ["VERSION", "answer_key", "visual_tokens_key"]

VERSION: Final = "7"


def visual_tokens_key(request: encoder_pb2.EncodeRequest, encoder_fingerprints: Sequence[str]) -> str:
    """Cache key of visual tokens.

    Args:
        request: Message of the encode call with all defaults filled in, from `EncodeSpec.to_key_proto`.
        encoder_fingerprints: Fingerprints of the encoder's checkpoint, text tower and settings.
    """
    return _key("visual_tokens", canonical_digest(request), *encoder_fingerprints)


def answer_key(visual_tokens: str, generate: GenerateSpec, llm_fingerprints: Sequence[str]) -> str:
    """Cache key of an answer.

    Args:
        visual_tokens: Cache key of its visual tokens; empty for a question without media.
        generate: The generate call, with all defaults filled in.
        llm_fingerprints: Fingerprints of the LLM service's checkpoint and settings.
    """
    return _key("answer", canonical_digest(generate.to_proto()), visual_tokens, *llm_fingerprints)


@functools.lru_cache(maxsize=1024)
def _key(level: str, request: bytes, *facts: str) -> str:
    digest = hashlib.sha256(request)
    for fact in facts:
        digest.update(b"%d:%b" % (len(fact.encode()), fact.encode()))
    return f"fovea:{VERSION}:{level}:{digest.hexdigest()}"
