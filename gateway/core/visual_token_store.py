"""Store of visual tokens: from the cache, else from the encoder service."""

from __future__ import annotations

from collections.abc import Callable

from fovea import telemetry, tracing
from fovea.errors import CheckpointMismatch, InvalidRequest, MalformedRequest, ServiceError, TooLarge
from gateway import metrics
from gateway.cache.base import Cache
from gateway.cache.lookup import lookup
from gateway.clients.encoder import EncoderClient, EncodeResult
from gateway.core.answer import Lookup
from gateway.core.pixel_shares import PixelShares
from gateway.core.planner import EncodePlan
from gateway.core.retry import call_with_retry

__all__ = ["VisualTokenStore", "refuses_visual_tokens"]


def refuses_visual_tokens(error: ServiceError) -> bool:
    """Whether an error of the LLM service may be due to the visual tokens of the request, not to its other fields."""
    match error:
        case CheckpointMismatch() | MalformedRequest():
            return True
        case InvalidRequest() | TooLarge():
            return (error.param or "").partition(".")[0].partition("[")[0] == "visual_tokens"
    return False


class VisualTokenStore:
    """Store of visual tokens, keyed on media, question and options.

    Args:
        encoder: Client of the encoder service.
        cache: Storage of bytes.
        pixels: Limit on the pixels in encode calls.
        outage_timeout_s: Longest outage of the encoder service, in seconds.
    """

    def __init__(self, encoder: EncoderClient, cache: Cache, *, pixels: PixelShares, outage_timeout_s: float) -> None:
        self._encoder = encoder
        self._pixels = pixels
        self._cache = cache
        self._outage_timeout_s = outage_timeout_s

    async def get(self, plan: EncodePlan, encode_by: Callable[[], float] | None = None) -> tuple[EncodeResult, Lookup]:
        """Visual tokens of a plan, and the outcome of their cache look-up.

        Args:
            plan: The plan.
            encode_by: Function that returns the deadline of the encode call, an event-loop time in seconds, or refuses
                it. It is called before the encode call, if there is one. None: the deadline of the plan.

        Raises:
            ServiceError: The encoder service refused the call, failed, or is unavailable.
        """
        if plan.cache == "use":
            cached = await self._cached(plan)
            if cached is not None:
                return cached, "hit"
        return await self._encode(plan, encode_by), "miss" if plan.cache == "use" else "skip"

    async def replace(self, plan: EncodePlan, encode_by: Callable[[], float] | None = None) -> EncodeResult:
        """Visual tokens of a plan in place of cached ones that were refused, which are counted.

        Raises:
            ServiceError: See `get`.
        """
        telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
        await self._cache.delete("visual_tokens", plan.key)
        return await self._encode(plan, encode_by)

    async def _encode(self, plan: EncodePlan, encode_by: Callable[[], float] | None) -> EncodeResult:
        """Visual tokens from the encoder service, stored unless the plan bypasses the cache."""
        deadline = plan.deadline if encode_by is None else encode_by()
        async with self._pixels.hold(plan.client, plan.spec.num_pixels, deadline=deadline):
            with tracing.span("encode"):
                encoded = await call_with_retry(
                    self._encoder,
                    lambda timeout_s, tried: self._encoder.encode(plan.spec, plan.media_order, timeout_s, tried),
                    deadline=deadline,
                    outage_timeout_s=self._outage_timeout_s,
                )
        metrics.VISUAL_TOKENS_TOTAL.inc(encoded.num_tokens_total)
        metrics.VISUAL_TOKENS_KEPT.inc(encoded.num_tokens_kept)
        if plan.cache != "bypass" and await self.matches_key(plan, encoded):
            await self._cache.put("visual_tokens", plan.key, encoded.to_bytes())
        return encoded

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
        if encoded is None or encoded.fingerprints != {plan.encoder.fingerprint}:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
            return None
        return encoded
