"""Videos that are written into a prompt frame by frame, each frame after its time as text (Qwen3-VL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

__all__ = ["FramePrompt"]


@dataclass(frozen=True)
class FramePrompt:
    """Writer of the ids that replace the placeholder of a video, as transformers' `Qwen3VLProcessor` expands it.

    The time stands between special tokens, so that its ids do not depend on the text around the video. The start and
    end of vision that the chat template writes around the placeholder stay.

    Attributes:
        tokenizer: Tokenizer of the checkpoint.
        video_token_id: Placeholder of a frame.
        start_token_id: Start of vision, before a frame.
        end_token_id: End of vision, after a frame.
    """

    tokenizer: Tokenizer
    video_token_id: int
    start_token_id: int
    end_token_id: int

    def ids(self, frame_times: Sequence[float]) -> list[int]:
        """Ids of a video, with one placeholder for each frame.

        Args:
            frame_times: Time of each frame in seconds.
        """
        ids: list[int] = []
        for time in frame_times:
            ids += self.tokenizer.encode(f"<{time:.1f} seconds>", add_special_tokens=False).ids
            ids += (self.start_token_id, self.video_token_id, self.end_token_id)
        return ids
