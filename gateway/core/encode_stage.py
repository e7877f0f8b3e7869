"""Encode stage: visual tokens from the cache or from the encoder service."""

from __future__ import annotations

from gateway import metrics
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.core.plans import EncodePlan
from gateway.core.result_cache import ResultCache
from gateway.core.retry import call_with_retry
from gateway.http.schemas.answer_response import Lookup

__all__ = ["EncodeStage"]


class EncodeStage:
    """Encode stage of answers and explanations.

    Args:
        encoder: Client of the encoder service.
        cache: Cache of visual tokens.
        outage_timeout_s: Longest outage of the encoder service, in seconds.
    """

    def __init__(self, encoder: EncoderClient, cache: ResultCache, *, outage_timeout_s: float) -> None:
        self._encoder = encoder
        self._cache = cache
        self._outage_timeout_s = outage_timeout_s

    async def run(self, plan: EncodePlan) -> tuple[EncodeResult, Lookup]:
        """Visual tokens of a plan, and the outcome of their cache look-up.

        Raises:
            ServiceError: The encoder service refused the call, failed, or is unavailable.
        """
        if plan.cache == "use":
            cached = await self._cache.get_visual_tokens(plan)
            if cached is not None:
                return cached, "hit"
        encoded = await call_with_retry(
            self._encoder,
            lambda timeout_s: self._encoder.encode(plan.encode, timeout_s),
            deadline=plan.deadline,
            outage_timeout_s=self._outage_timeout_s,
        )
        metrics.VISUAL_TOKENS_TOTAL.inc(encoded.num_tokens_total)
        metrics.VISUAL_TOKENS_KEPT.inc(encoded.num_tokens_kept)
        if plan.cache != "bypass" and await self.matches_key(plan, encoded):
            await self._cache.put_visual_tokens(plan.visual_tokens_key, encoded)
        return encoded, "miss" if plan.cache == "use" else "skip"

    async def matches_key(self, plan: EncodePlan, encoded: EncodeResult) -> bool:
        """Whether the visual tokens may be stored under the plan's key: the encoder was not replaced meanwhile."""
        if encoded.fingerprints != {plan.encoder.fingerprint}:
            self._encoder.invalidate_info()
            return False
        return await self._encoder.info() == plan.encoder
