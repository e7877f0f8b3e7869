"""Store of answers: the cache of answers, and the lock under which gateways compute one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Final

from pydantic import TypeAdapter, ValidationError

from fovea import telemetry
from fovea.wire.formats import WIRE_FORMATS
from gateway.cache.base import Cache
from gateway.cache.lookup import lookup
from gateway.clients.llm import FINISH_REASONS
from gateway.clients.replies import shows_image
from gateway.core.answer import Completion
from gateway.core.deadlines import now
from gateway.core.planner import AnswerPlan

__all__ = ["AnswerStore"]

_LOCK_POLL_S: Final = 0.05
_LOCK_WAIT_S: Final = 2.0
_MAX_KEPT: Final = 1024
_MAX_KEPT_BYTES: Final = 4096
"""Size of the longest cached value that is kept with its answer, which bounds their memory."""
_MAX_COUNT: Final = 2**32 - 1
_COMPLETION: Final = TypeAdapter(Completion)


class AnswerStore:
    """Store of answers.

    Args:
        cache: Storage of bytes.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    async def get(self, plan: AnswerPlan) -> Completion | None:
        """The cached answer; None on a miss, or if the plan does not read the cache.

        An entry that cannot be read, or has a value that is out of range, is a miss, and is counted.
        """
        if plan.shared_key is None:
            return None
        data = await lookup(self._cache, "answer", plan.shared_key)
        if data is None:
            return None
        completion = _read(data) if len(data) > _MAX_KEPT_BYTES else _kept(data)
        if completion is None:
            telemetry.count_failure(telemetry.FailureKind.CACHE_ENTRY)
        return completion

    async def put(self, key: str, completion: Completion) -> None:
        """Stores an answer."""
        await self._cache.put("answer", key, _COMPLETION.dump_json(completion, exclude={"logprobs"}))

    @asynccontextmanager
    async def lock(self, plan: AnswerPlan) -> AsyncIterator[Completion | None]:
        """Lock under which the answer is computed; waits while another gateway computes the same answer.

        Yields the answer of the other gateway, or None if the caller must compute it. The wait ends after 2 s or
        half of the time left, whichever is shorter. A gateway that died with the lock thus causes a short delay only.
        """
        key = plan.shared_key
        if key is None:
            yield None
            return
        start = now()
        give_up_at = start + min(_LOCK_WAIT_S, (plan.deadline - start) / 2)
        waited = False
        while (lock := await self._cache.acquire(key)) is None and now() < give_up_at:
            waited = True
            completion = await self.get(plan)
            if completion is not None:
                yield completion
                return
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            yield await self.get(plan) if waited else None
        finally:
            if lock is not None:
                await self._cache.release(key, lock)


@lru_cache(_MAX_KEPT)
def _kept(data: bytes) -> Completion | None:
    return _read(data)


def _read(data: bytes) -> Completion | None:
    """The answer in a cached value; None if it cannot be read, or is not one that a service can have given."""
    try:
        completion = _COMPLETION.validate_json(data)
    except ValidationError:
        return None
    counts = (
        completion.prompt_tokens,
        completion.completion_tokens,
        completion.visual_tokens_total,
        completion.visual_tokens_kept,
        *completion.visual_tokens_by_layer,
    )
    is_possible = (
        completion.finish_reason in FINISH_REASONS
        and completion.wire_dtype in ("", *WIRE_FORMATS)
        and all(0 <= count <= _MAX_COUNT for count in counts)
        and all(map(shows_image, completion.viewed))  # false for NaN
        and completion.logprobs is None
    )
    return completion if is_possible else None
