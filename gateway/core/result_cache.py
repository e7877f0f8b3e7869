"""Cache of answers and visual tokens, typed and keyed by plans."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from pydantic import ValidationError

from fovea import telemetry
from gateway.cache.base import Cache, Level
from gateway.clients.encoder import EncodeResult
from gateway.core.plans import AnswerPlan, EncodePlan
from gateway.core.responses import CachedAnswer
from gateway.metrics import CACHE_LOOKUPS

__all__ = ["ResultCache"]

_LOCK_POLL_S: Final = 0.05
_LOCK_WAIT_S: Final = 2.0


class ResultCache:
    """Both cache levels. An entry that cannot be read is a miss, and is counted.

    Args:
        cache: Storage of bytes.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get_answer(self, plan: AnswerPlan) -> CachedAnswer | None:
        """The cached answer; None on a miss, or if the plan does not read the cache."""
        if plan.shared_key is None:
            return None
        data = await self._get("answer", plan.shared_key)
        if data is None:
            return None
        try:
            return CachedAnswer.model_validate_json(data)
        except ValidationError:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
            return None

    async def put_answer(self, key: str, answer: CachedAnswer) -> None:
        """Stores an answer."""
        await self._cache.put("answer", key, answer.model_dump_json().encode())

    async def get_visual_tokens(self, plan: EncodePlan) -> EncodeResult | None:
        """The cached visual tokens; None on a miss."""
        data = await self._get("visual_tokens", plan.visual_tokens_key)
        if data is None:
            return None
        encoded = EncodeResult.from_bytes(data, plan.encode)
        if encoded is None:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
        return encoded

    async def put_visual_tokens(self, key: str, encoded: EncodeResult) -> None:
        """Stores visual tokens."""
        await self._cache.put("visual_tokens", key, encoded.to_bytes())

    @asynccontextmanager
    async def answer_lock(self, plan: AnswerPlan) -> AsyncIterator[CachedAnswer | None]:
        """Lock under which the answer is computed; waits while another gateway computes the same answer.

        Yields the answer of the other gateway, or None if the caller must compute it. The wait ends after 2 s and after
        half of the time left, so that a gateway which died with the lock delays the answer only a little.
        """
        key = plan.shared_key
        if key is None:
            yield None
            return
        start = _now()
        give_up_at = start + min(_LOCK_WAIT_S, (plan.deadline - start) / 2)
        waited = False
        while (lock := await self._cache.acquire(key)) is None and _now() < give_up_at:
            waited = True
            cached = await self.get_answer(plan)
            if cached is not None:
                yield cached
                return
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            yield await self.get_answer(plan) if waited else None
        finally:
            if lock is not None:
                await self._cache.release(key, lock)

    async def close(self) -> None:
        """Closes the cache."""
        await self._cache.close()

    async def _get(self, level: Level, key: str) -> bytes | None:
        data = await self._cache.get(level, key)
        CACHE_LOOKUPS.labels(level, "miss" if data is None else "hit").inc()
        return data


def _now() -> float:
    return asyncio.get_running_loop().time()
