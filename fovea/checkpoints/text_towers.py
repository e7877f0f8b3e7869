"""Default text tower of each family."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_TEXT_TOWERS"]

_CLIP: Final = "openai/clip-vit-large-patch14-336"

DEFAULT_TEXT_TOWERS: Final[dict[str, str | None]] = {
    "llava": _CLIP,
    "llava_next": _CLIP,
    "video_llava": "LanguageBind/LanguageBind_Image",
    # Pruners compare the language model's own input embeddings.
    "qwen2_5_vl": None,
    "qwen3_vl": None,
}
"""Hub id of the text tower by `model_type` of the checkpoint; None for families without a text tower."""
