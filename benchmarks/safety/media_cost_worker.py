"""What a worker measures of one media file. Workers import this module by its name."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final

from encoder_service.media.decoding import Measured, MediaDecoder, Unmeasured
from encoder_service.media.video_facts import VideoFacts
from encoder_service.media.videos import VideoFile
from encoder_service.models.media import MediaOptions
from fovea.errors import ServiceError

__all__ = ["measure"]

_PEAK: Final = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
_OPTIONS: Final = MediaOptions()


def measure(path: str, is_video: bool, decoder: MediaDecoder) -> dict[str, Any]:
    """Costs of a file in this process, a worker that has decoded nothing yet."""
    data = Path(path).read_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what the process has
    before, start = _peak_bytes(), time.process_time()
    charged = 0
    try:
        item: bytes | Unmeasured | Measured = Unmeasured(VideoFile(data)) if is_video else data
        charged = decoder.memory(item, _OPTIONS)
        result = decoder.run(item, _OPTIONS)
        if isinstance(result, VideoFacts):
            item = Measured(VideoFile(data), result)
            charged = max(charged, decoder.memory(item, _OPTIONS))
            decoder.run(item, _OPTIONS)
        outcome = "decoded"
    except ServiceError as error:
        outcome = f"{error.code}: {error.message}"
    return {
        "cpu_s": round(time.process_time() - start, 3),
        "peak_bytes": _peak_bytes() - before,
        "charged_bytes": charged,
        "outcome": outcome,
    }


def _peak_bytes() -> int:
    match = _PEAK.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    assert match is not None
    return 1024 * int(match[1])
