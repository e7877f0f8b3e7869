"""A chat history as OpenAI's API writes it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["MESSAGE_FIELDS", "PARTS_ACCEPTED", "ImagePart", "Message", "TextPart", "VideoPart"]

MESSAGE_FIELDS: Final = (
    'role (system, user or assistant) and content: a text, or parts {"type": "text", "text"},'
    ' {"type": "image_url", "image_url": {"url", "detail"}} and {"type": "video_url", "video_url": {"url"}}'
)
PARTS_ACCEPTED: Final = "parts of the types 'text', 'image_url', 'video_url' are accepted"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"]

    text: str
    """The text. Nothing in it has a special meaning."""


class _ImageUrl(_Part):
    url: str
    """A data URL, or an https URL where the server allows its host."""

    detail: Literal["auto", "low", "high", "original"] = "auto"
    """Accepted as OpenAI does, and without effect: the family decides how it looks at an image. `keep_tokens` and
    `keep_ratio` say how many visual tokens it may have."""


class ImagePart(_Part):
    """A picture, where it stands in the turn."""

    type: Literal["image_url"]
    image_url: _ImageUrl


class _VideoUrl(_Part):
    url: str
    """A data URL, or an https URL where the server allows its host."""


class VideoPart(_Part):
    """A video, where it stands in the turn."""

    type: Literal["video_url"]
    video_url: _VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


def _text_as_part(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Part):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    """Who speaks. Pictures and videos stand in the user's turns."""

    content: Annotated[list[Part], Field(min_length=1, max_length=64), BeforeValidator(_text_as_part)]
    """A text, or a list of parts."""
