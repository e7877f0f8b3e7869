"""Cache keys: digests of the messages of a question's calls, and of the fingerprints of the services.

No option is named here. What a message holds, a key knows. `VERSION` is raised whenever the meaning of a cached value
changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.core.canonical import canonical_digest
from gateway.core.encode_spec import EncodeSpec
from gateway.core.generate_spec import GenerateSpec

__all__ = ["VERSION", "answer_key", "visual_tokens_key"]

VERSION: Final = "6"


def visual_tokens_key(spec: EncodeSpec, encoder_fingerprints: Sequence[str]) -> str:
    """Cache key of visual tokens.

    Args:
        spec: The encode call, with all defaults filled in.
        encoder_fingerprints: Fingerprints of the encoder's checkpoint, text tower and settings.
    """
    return _key("visual_tokens", _encode_digest(spec), [encoder_fingerprints])


def answer_key(
    spec: EncodeSpec, generate: GenerateSpec, encoder_fingerprints: Sequence[str], llm_fingerprints: Sequence[str]
) -> str:
    """Cache key of an answer.

    Args:
        spec: The encode call. `explain` is ignored, because it does not change the answer.
        generate: The generate call, with all defaults filled in.
        encoder_fingerprints: See `visual_tokens_key`.
        llm_fingerprints: Fingerprints of the LLM service's checkpoint and settings.
    """
    digests = _encode_digest(replace(spec, explain=False)) + canonical_digest(generate.to_proto())
    return _key("answer", digests, [encoder_fingerprints, llm_fingerprints])


def _encode_digest(spec: EncodeSpec) -> bytes:
    return canonical_digest(spec.to_proto(content=lambda file: bytes.fromhex(file.sha256)))


def _key(level: str, digests: bytes, fingerprints: Sequence[Sequence[str]]) -> str:
    digest = hashlib.sha256(digests)
    for group in fingerprints:
        digest.update(b"%d;" % len(group))
        for fingerprint in group:
            digest.update(b"%d:%b" % (len(fingerprint.encode()), fingerprint.encode()))
    return f"fovea:{VERSION}:{level}:{digest.hexdigest()}"
