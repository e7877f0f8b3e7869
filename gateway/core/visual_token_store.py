"""Store of visual tokens: from the cache, else from the encoder service."""

from __future__ import annotations

from fovea import telemetry
from gateway import metrics
from gateway.cache.base import Cache
from gateway.cache.lookup import lookup
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.core.answer import Lookup
from gateway.core.planner import EncodePlan
from gateway.core.retry import call_with_retry

__all__ = ["VisualTokenStore"]


class VisualTokenStore:
    """Store of visual tokens, keyed on media, question and options.

    Args:
        encoder: Client of the encoder service.
        cache: Storage of bytes.
        outage_timeout_s: Longest outage of the encoder service, in seconds.
    """

    def __init__(self, encoder: EncoderClient, cache: Cache, *, outage_timeout_s: float) -> None:
        self._encoder = encoder
        self._cache = cache
        self._outage_timeout_s = outage_timeout_s

    async def get(self, plan: EncodePlan) -> tuple[EncodeResult, Lookup]:
        """Visual tokens of a plan, and the outcome of their cache look-up.

        Raises:
            ServiceError: The encoder service refused the call, failed, or is unavailable.
        """
        if plan.cache == "use":
            cached = await self._cached(plan)
            if cached is not None:
                return cached, "hit"
        encoded = await call_with_retry(
            self._encoder,
            lambda timeout_s: self._encoder.encode(plan.spec, plan.media_order, timeout_s),
            deadline=plan.deadline,
            outage_timeout_s=self._outage_timeout_s,
        )
        metrics.VISUAL_TOKENS_TOTAL.inc(encoded.num_tokens_total)
        metrics.VISUAL_TOKENS_KEPT.inc(encoded.num_tokens_kept)
        if plan.cache != "bypass" and await self.matches_key(plan, encoded):
            await self._cache.put("visual_tokens", plan.key, encoded.to_bytes())
        return encoded, "miss" if plan.cache == "use" else "skip"

    async def matches_key(self, plan: EncodePlan, encoded: EncodeResult) -> bool:
        """Whether visual tokens belong to the plan's key: the encoder service was not replaced meanwhile."""
        if encoded.fingerprints != {plan.encoder.fingerprint}:
            self._encoder.invalidate_info()
            return False
        return await self._encoder.info() == plan.encoder

    async def _cached(self, plan: EncodePlan) -> EncodeResult | None:
        """The cached visual tokens; None on a miss. An entry that cannot be read is a miss, and is counted."""
        data = await lookup(self._cache, "visual_tokens", plan.key)
        if data is None:
            return None
        encoded = EncodeResult.from_bytes(data, plan.spec, plan.media_order)
        if encoded is None:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
        return encoded
