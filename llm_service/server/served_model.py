"""The model that the LLM service serves, with the engine that runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from llm_service.engine.base import LLMEngine
from llm_service.prompts import PromptLimits
from llm_service.sampling import TokenSampling

__all__ = ["ServedModel"]


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and the facts that `GetModelInfo` reports, see `fovea.service.ServedModel`.

    Attributes:
        name: Name under which the model is served.
        family: Name of the family, as in the checkpoint's config.
        limits: Limits of prompts.
        max_tokens: Largest `max_tokens` of a request.
        settings_fingerprint: Fingerprint of everything except the checkpoint that changes answers.
        engine: The engine that runs the model.
        default_sampling: Sampling parameters for the fields that a request leaves out.
        has_died: Event of an engine that can no longer serve although nothing stopped it.
    """

    name: str
    family: str
    limits: PromptLimits
    max_tokens: int
    settings_fingerprint: str
    engine: LLMEngine
    default_sampling: TokenSampling
    has_died: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.limits.fingerprint})"

    @property
    def num_waiting(self) -> int:
        """See `LLMEngine.num_waiting`."""
        return self.engine.num_waiting

    @property
    def num_running(self) -> int:
        """See `LLMEngine.num_running`."""
        return self.engine.num_running

    @property
    def queue_time_s(self) -> float:
        """See `LLMEngine.queue_time_s`."""
        return self.engine.queue_time_s

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Context in which the engine runs."""
        loop = asyncio.get_running_loop()
        self.engine.start(on_death=lambda: loop.call_soon_threadsafe(self.has_died.set))
        try:
            yield
        finally:
            await asyncio.to_thread(self.engine.stop)

    async def watch(self, report_serving: Callable[[bool], Awaitable[None]]) -> None:
        """Returns when the engine has died."""
        await self.has_died.wait()
