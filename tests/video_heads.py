"""First bytes of video files, for tests that decode none."""

from __future__ import annotations

from typing import Final

__all__ = ["MP4_HEAD"]

MP4_HEAD: Final = b"\0\0\0\x18ftypisom" + bytes(40)
