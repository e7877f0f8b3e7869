"""Video-LLaVA: LLaVA-1.5's projector and Vicuna, with a video token in addition to the image token.

An unpruned video arrives with the CLS token of each frame (`Grid.cls_per_frame`), as in transformers; a pruned one has
none. The projector treats CLS tokens and patches alike.
"""

from __future__ import annotations

from typing import Any

from transformers import VideoLlavaConfig
from transformers.models.video_llava.modeling_video_llava import VideoLlavaMultiModalProjector

from llm_service.models.llava import LlavaLanguageModel

__all__ = ["VideoLlavaLanguageModel"]


class VideoLlavaLanguageModel(LlavaLanguageModel):
    """Language model and projector of a Video-LLaVA checkpoint. See `VisionLanguageModel` for the attributes."""

    family = "video_llava"
    config_class: type[Any] = VideoLlavaConfig
    projector_class: type[Any] = VideoLlavaMultiModalProjector

    def __init__(self, config: Any, projector: Any) -> None:
        super().__init__(config, projector)
        self.video_token_id = config.video_token_id
