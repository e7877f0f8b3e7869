"""Messages of `POST /v1/chat/completions`, as lenient as OpenAI's servers are."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["ChatImagePart", "ChatMessage", "ChatTextPart", "ChatVideoPart"]

_MAX_PARTS: Final = 256


class _Lenient(BaseModel):
    """Base of objects whose unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


def _as_object(url: Any) -> Any:
    # Older clients send the URL itself.
    return {"url": url} if isinstance(url, str) else url


class ChatTextPart(_Lenient):
    """Text part of a message."""

    type: Literal["text"]

    text: str
    """The text. Special tokens and markers in it are plain text."""


class _MediaUrl(_Lenient):
    url: str
    """Data URL, or an https URL if the server allows its host. Other fields beside it, such as `detail`, have no
    effect."""


class ChatImagePart(_Lenient):
    """Image part of a message. Other fields beside `image_url`, such as `uuid`, have no effect."""

    type: Literal["image_url"]
    image_url: Annotated[_MediaUrl, BeforeValidator(_as_object)]


class ChatVideoPart(_Lenient):
    """Video part of a message, for models that take videos."""

    type: Literal["video_url"]
    video_url: Annotated[_MediaUrl, BeforeValidator(_as_object)]


ChatPart = Annotated[ChatTextPart | ChatImagePart | ChatVideoPart, Field(discriminator="type")]


def _as_parts(content: Any) -> Any:
    if content is None:
        return []
    if not isinstance(content, str | list):
        raise PydanticCustomError("chat_content", "a text or a list of parts is accepted")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatMessage(_Lenient):
    """One turn of the chat."""

    role: Literal["system", "developer", "user", "assistant"]
    """Author of the turn. `developer` is the same as `system`. Images and videos are accepted in turns of `user`."""

    content: Annotated[list[ChatPart], Field(max_length=_MAX_PARTS), BeforeValidator(_as_parts)] = Field(
        default_factory=list
    )
    """Text, or a list of parts, whose order is kept. Null in a turn of `assistant` is an empty text."""

    tool_calls: list[Any] | None = None
    """Tool calls of an assistant; accepted empty only."""

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.tool_calls:
            raise PydanticCustomError("chat_content", "tool_calls are not accepted: this server calls no tools")
        if not self.content and self.role != "assistant":
            raise PydanticCustomError("chat_content", "content is missing; a text or at least one part is needed")
        return self
