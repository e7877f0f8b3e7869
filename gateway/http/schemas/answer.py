"""Request of `POST /v1/answer`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from gateway.http.schemas.messages import Message
from gateway.http.schemas.options import AnswerOptions, PruningOptions, Request, SamplingOptions

__all__ = ["AnswerRequest", "QuestionRequest"]


def _url_or_frames(value: Any) -> Any:
    # This runs before pydantic's check of the union, whose error would list the failures of both types.
    frames = isinstance(value, list) and value and all(isinstance(frame, str) for frame in value)
    if value is None or isinstance(value, str) or frames:
        return value
    raise PydanticCustomError("video", "a data URL, an https URL, or a list of frames as such URLs is accepted")


class _QuestionFields(Request):
    """Text, images and videos of a question."""

    question: str | None = None
    """Text of the question; required unless `messages` is given. Each `<image>` marks the position of one image, in
    order. If the model takes videos, each `<video>` marks the position of one video. Media without a marker come
    first. Other special tokens are plain text."""

    image: str | None = None
    """Image: a data URL (`data:image/jpeg;base64,...`), or an https URL if the server allows its host. In
    multipart/form-data: an uploaded file. JPEG, PNG, WebP, GIF and BMP are accepted."""

    images: Annotated[list[str] | None, Field(min_length=1)] = None
    """Several images instead of `image`, in the same forms; in multipart/form-data: several files. By
    default, up to 8 are accepted."""

    video: Annotated[str | list[str] | None, BeforeValidator(_url_or_frames)] = None
    """Video, if the model takes videos: a data URL (`data:video/mp4;base64,...`), an https URL, or a list of frames in
    the forms of `image`; in multipart/form-data: an uploaded file. MP4, WebM, MKV, AVI, MOV and GIF are accepted."""

    messages: Annotated[list[Message] | None, Field(min_length=1, max_length=256)] = None
    """Chat history in OpenAI's format, instead of question, images and video. The last message must be the user's. Its
    text is the question for which the visual tokens of all images, also of earlier messages, are pruned. In a form: a
    JSON list."""

    model: str | None = None
    """Name of the served model; any other name is refused with status 404."""


class QuestionRequest(PruningOptions, _QuestionFields):
    """Fields of every question about images and videos."""


class AnswerRequest(SamplingOptions, AnswerOptions, QuestionRequest):
    """A question about images and videos, to be answered."""

    max_tokens: int = Field(default=128, ge=1)
    """Maximum number of tokens to generate. The server's limit is 2048 by default. A limit below 128 is the default
    there."""

    stream: bool = False
    """Whether to send server-sent events: `token` for each piece of text, then `done` with the whole answer, or
    `error`."""

    @property
    def sent_max_tokens(self) -> int | None:
        """`max_tokens` as the client sent it; None for the default."""
        return self.max_tokens if "max_tokens" in self.model_fields_set else None
