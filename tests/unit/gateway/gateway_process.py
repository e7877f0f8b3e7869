"""Process of a gateway, as `python -m gateway` starts it."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = ["gateway_process"]


@asynccontextmanager
async def gateway_process(
    model: Path, text_tower: Path, *flags: str
) -> AsyncIterator[tuple[str, Process, asyncio.StreamReader]]:
    """URL of a gateway that listens on a free port of loopback, its process, and its log after the line with the URL.

    The process is stopped at the end, if it still runs then.
    """
    words = ("-m", "gateway", "--model", str(model), "--text-tower", str(text_tower), "--listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(sys.executable, *words, *flags, stderr=PIPE)
    log = process.stderr
    assert log is not None
    try:
        async with asyncio.timeout(60):
            address = None
            while address is None:
                line = await log.readline()
                assert line, "the gateway has ended"
                address = re.search(rb"http://[0-9.:]+", line)
            yield address[0].decode(), process, log
    finally:
        if process.returncode is None:
            process.terminate()
            await log.read()
            await process.wait()
