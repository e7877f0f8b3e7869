"""Requests after the death of vLLM's engine core."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from fovea.errors import Unavailable
from tests.vllm.engines import Requests, read, served, write

pytestmark = pytest.mark.timeout(900)


def engine_cores(pid):
    return [child for child in psutil.Process(pid).children() if "EngineCore" in " ".join(child.cmdline())]


async def test_a_dead_engine_core_ends_all_requests_and_is_reported(tmp_path):
    model = served(write("llava", tmp_path), "vllm", max_batch_size=1)
    engine, requests = model.engine, Requests(model.limits)
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    engine.start(on_death=lambda: loop.call_soon_threadsafe(died.set))
    try:
        running = engine.submit(requests.make([60, 61], max_tokens=400))
        waiting = engine.submit(requests.make([60, 62]))
        await anext(running)
        (core,) = engine_cores(os.getpid())
        core.send_signal(signal.SIGKILL)
        for generation in (running, waiting):
            with pytest.raises(Unavailable, match="has lost its engine"):
                await read(generation)
        await died.wait()
        with pytest.raises(Unavailable):
            engine.submit(requests.make([60, 63]))
    finally:
        await asyncio.to_thread(engine.stop)
