"""Chat history in the format of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

__all__ = ["MESSAGE_FIELDS", "PARTS_ACCEPTED", "ImagePart", "Message", "TextPart", "VideoPart"]

MESSAGE_FIELDS: Final = (
    'role (system, user or assistant) and content: a text, or parts {"type": "text", "text"},'
    ' {"type": "image_url", "image_url": {"url", "detail"}} and {"type": "video_url", "video_url": {"url"}}'
)
PARTS_ACCEPTED: Final = "parts of the types 'text', 'image_url', 'video_url' are accepted"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Part):
    """Text part of a message."""

    type: Literal["text"]

    text: str
    """The text. Markers and special tokens in it are plain text."""


class _ImageUrl(_Part):
    url: str
    """Data URL, or an https URL if the server allows its host."""

    detail: Literal["auto", "low", "high", "original"] = "auto"
    """Detail level of OpenAI's API; accepted, without effect. `keep_tokens` and `keep_ratio` set the number of visual
    tokens."""


class ImagePart(_Part):
    """Image part of a message."""

    type: Literal["image_url"]
    image_url: _ImageUrl


class _VideoUrl(_Part):
    url: str
    """Data URL, or an https URL if the server allows its host."""


class VideoPart(_Part):
    """Video part of a message."""

    type: Literal["video_url"]
    video_url: _VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _text_as_part(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise PydanticCustomError("content", "a text or a list of parts is accepted")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Part):
    """One turn of the chat history."""

    role: Literal["system", "user", "assistant"]
    """Author of the turn. Images and videos are accepted in turns of `user` only."""

    content: Annotated[list[Part], Field(min_length=1, max_length=64), BeforeValidator(_text_as_part)]
    """Text, or a list of parts."""
