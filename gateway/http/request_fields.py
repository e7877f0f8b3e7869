"""Text and media of a request, from its fields or from its chat history, and the fields that errors name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from fovea.errors import InvalidRequest
from gateway.core.question_text import Modality, QuestionText, Turn
from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.messages import ImagePart, Message, TextPart, VideoPart
from gateway.media.inputs import MediaInput, MediaInputs, VideoInput, video_of_url

__all__ = ["FILE_FIELDS", "Uploads", "client_fields", "read_text_and_media"]

FILE_FIELDS: Final = ("image", "images", "video")
"""Request fields that may hold files."""
_HOLDING_MEDIA: Final = (*FILE_FIELDS, "messages")


Uploads: TypeAlias = dict[str, list[MediaInput]]
"""Uploaded files of a form by field, one of `FILE_FIELDS`. A field without a file is left out."""


def client_fields(request: QuestionRequest, uploads: Uploads) -> Mapping[str, str]:
    """Names of the client's fields by the names in errors of the core, where they differ."""
    if request.messages is not None:
        return dict.fromkeys(("question", "image", "video"), "messages")
    if request.images is not None or "images" in uploads:
        return {"image": "images"}
    return {} if request.image is not None or "image" in uploads else {"image": "video"}


def read_text_and_media(request: QuestionRequest, uploads: Uploads) -> tuple[QuestionText, MediaInputs]:
    """The text and the media of a request. The media are moved out of `request` and `uploads`, to free memory.

    Raises:
        InvalidRequest: Fields exclude each other, or a required field is missing.
    """
    image, images, video, messages = request.image, request.images, request.video, request.messages
    for name in _HOLDING_MEDIA:
        if getattr(request, name) is not None:
            setattr(request, name, None)
    if messages is not None:
        fields = {"question": request.question, "image": image, "images": images, "video": video}
        for name, value in fields.items():
            if value is not None or name in uploads:
                raise InvalidRequest(
                    f"{name} was given beside messages, which hold texts, images and videos themselves", param=name
                )
        return _read_messages(messages)
    if request.question is None:
        raise InvalidRequest(
            "question is missing; send a text of at least one character, or messages", param="question"
        )
    media_inputs = MediaInputs(_images(image, images, uploads), _videos(video, uploads))
    uploads.clear()
    if not media_inputs.images and not media_inputs.videos:
        raise InvalidRequest(
            "image is missing; send a data URL or upload a file as image, images or video", param="image"
        )
    return QuestionText(request.question), media_inputs


def _images(image: str | None, images: list[str] | None, uploads: Uploads) -> list[MediaInput]:
    one = uploads.get("image") or ([] if image is None else [MediaInput("image", image)])
    several = uploads.get("images") or [MediaInput(f"images.{i}", url) for i, url in enumerate(images or ())]
    if one and several:
        raise InvalidRequest("image and images were both given; send one image or a list", param="images")
    return one or several


def _videos(video: str | list[str] | None, uploads: Uploads) -> list[VideoInput]:
    if isinstance(video, list):
        return [VideoInput("video", frames=tuple(MediaInput(f"video.{i}", frame) for i, frame in enumerate(video)))]
    files = uploads.get("video") or ([] if video is None else [MediaInput("video", video)])
    return [VideoInput("video", file) for file in files]


def _read_messages(messages: Sequence[Message]) -> tuple[QuestionText, MediaInputs]:
    if messages[-1].role != "user":
        raise InvalidRequest(
            "messages: the last one is not the user's; a history that ends with a user turn is accepted",
            param="messages",
        )
    media_inputs = MediaInputs()
    turns = tuple(_turn(f"messages.{number}", message, media_inputs) for number, message in enumerate(messages))
    text = "\n".join(part for part in turns[-1].parts if isinstance(part, str))
    if not text.strip():
        raise InvalidRequest(
            "messages: the last user turn has no text; at least one character is needed", param="messages"
        )
    if not media_inputs.images and not media_inputs.videos:
        raise InvalidRequest("messages hold no image and no video; at least one is needed", param="messages")
    return QuestionText(text, turns), media_inputs


def _turn(message_path: str, message: Message, media_inputs: MediaInputs) -> Turn:
    """Turn of a message. The media of the message are appended to `media_inputs`."""
    parts: list[str | Modality] = []
    for number, part in enumerate(message.content):
        path = f"{message_path}.content.{number}"
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif message.role != "user":
            raise InvalidRequest(f"{path}: images and videos are accepted in user turns only", param="messages")
        elif isinstance(part, ImagePart):
            media_inputs.images.append(MediaInput(path, part.image_url.url))
            parts.append(Modality.IMAGE)
        elif isinstance(part, VideoPart):
            media_inputs.videos.append(video_of_url(path, part.video_url.url))
            parts.append(Modality.VIDEO)
    return Turn(message.role, tuple(parts))
