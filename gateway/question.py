"""What a request asks, in whichever way it was written, apart from the files that it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from fovea.errors import InvalidRequest
from gateway.schemas.answer import QuestionRequest
from gateway.schemas.messages import ImagePart, Message, TextPart, VideoPart

__all__ = [
    "FILE_FIELDS",
    "InterleavedText",
    "MediaInput",
    "MediaInputs",
    "Modality",
    "Question",
    "Turn",
    "Uploads",
    "VideoInput",
    "read_question",
]


FILE_FIELDS: Final = ("image", "images", "video")
"""The request fields that may hold files."""


class Modality(Enum):
    """Where a picture or a video stands in a turn; the values are what chat templates call it."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class InterleavedText:
    """One text with places inside it, as a plain question has them."""

    pieces: tuple[str | Modality, ...]


@dataclass(frozen=True)
class Turn:
    """What one side says at a time: texts and places, in order."""

    role: str
    parts: tuple[str | InterleavedText | Modality, ...]


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        text: What text-aware pruners read: the question, or the text of the last user turn alone.
        turns: The chat history; None for a plain question, whose `text` may hold marks.
    """

    text: str
    turns: tuple[Turn, ...] | None = None

    @property
    def param(self) -> str:
        """The request field that holds the text."""
        return "question" if self.turns is None else "messages"


@dataclass(frozen=True)
class MediaInput:
    """A file, or the URL of one.

    Attributes:
        field_path: Where it stands in the request: `image`, `images.1`, `messages.0.content.2`.
        content: The file, or a data URL or https URL.
    """

    field_path: str
    content: bytes | str


@dataclass(frozen=True)
class VideoInput:
    """A video: one file, or its frames.

    Attributes:
        field_path: As of a `MediaInput`.
        file: None where there are frames.
        frames: In the order of time.
    """

    field_path: str
    file: MediaInput | None = None
    frames: tuple[MediaInput, ...] = ()


@dataclass
class MediaInputs:
    """The files that a question is about, in the order in which the request names them."""

    images: list[MediaInput] = field(default_factory=list)
    videos: list[VideoInput] = field(default_factory=list)


@dataclass
class Uploads:
    """Files of a form by their fields, `FILE_FIELDS`."""

    image: list[bytes] = field(default_factory=list)
    images: list[bytes] = field(default_factory=list)
    video: list[bytes] = field(default_factory=list)

    def clear(self) -> None:
        """Lets go of the files."""
        for files in (self.image, self.images, self.video):
            files.clear()


def read_question(request: QuestionRequest, uploads: Uploads) -> tuple[Question, MediaInputs]:
    """What is asked and what about. The request and the uploads are left without their files: they are megabytes.

    Raises:
        InvalidRequest: Fields that exclude each other, or none of those that are needed.
    """
    image, images, video, messages = request.image, request.images, request.video, request.messages
    request.image = request.images = request.video = request.messages = None
    if messages is not None:
        fields = {"question": request.question, "image": image, "images": images, "video": video}
        for name, value in fields.items():
            if value is not None or getattr(uploads, name, None):
                raise InvalidRequest(
                    f"{name} was given beside messages, which hold texts, pictures and videos themselves", param=name
                )
        return _read_messages(messages)
    if request.question is None:
        raise InvalidRequest(
            "question is missing; send a text of at least one character, or messages", param="question"
        )
    sources = MediaInputs(_images(image, images, uploads), _videos(video, uploads))
    uploads.clear()
    if not sources.images and not sources.videos:
        raise InvalidRequest(
            "image is missing; send a data URL or upload a file as image, images or video", param="image"
        )
    return Question(request.question), sources


def _images(image: str | None, images: list[str] | None, uploads: Uploads) -> list[MediaInput]:
    if (image is not None or uploads.image) and (images is not None or uploads.images):
        raise InvalidRequest("image and images were both given; send one picture or a list", param="images")
    for name, url, files in (("image", image, uploads.image), ("images", images, uploads.images)):
        if url is not None and files:
            raise InvalidRequest(f"{name} was given twice, as a file and as a field", param=name)
    if image is not None:
        return [MediaInput("image", image)]
    if len(uploads.image) == 1:
        return [MediaInput("image", uploads.image[0])]
    field_name = "image" if uploads.image else "images"
    contents: Sequence[bytes | str] = uploads.image or uploads.images or images or ()
    return [MediaInput(f"{field_name}.{number}", content) for number, content in enumerate(contents)]


def _videos(video: str | list[str] | None, uploads: Uploads) -> list[VideoInput]:
    if video is not None and uploads.video:
        raise InvalidRequest("video was given twice, as a file and as a field", param="video")
    if isinstance(video, list):
        return [VideoInput("video", frames=tuple(MediaInput(f"video.{i}", frame) for i, frame in enumerate(video)))]
    contents: Sequence[bytes | str] = uploads.video if video is None else [video]
    return [VideoInput("video", MediaInput("video", content)) for content in contents]


def _read_messages(messages: Sequence[Message]) -> tuple[Question, MediaInputs]:
    if messages[-1].role != "user":
        raise InvalidRequest("messages: the last one is not the user's; the answer is to a user turn", param="messages")
    sources = MediaInputs()
    turns = tuple(_turn(f"messages.{number}", message, sources) for number, message in enumerate(messages))
    text = "\n".join(part for part in turns[-1].parts if isinstance(part, str))
    if not text.strip():
        raise InvalidRequest(
            "messages: the last user turn has no text; at least one character is needed", param="messages"
        )
    if not sources.images and not sources.videos:
        raise InvalidRequest("messages hold no picture and no video; at least one is needed", param="messages")
    return Question(text, turns), sources


def _turn(name: str, message: Message, sources: MediaInputs) -> Turn:
    parts: list[str | Modality] = []
    for number, part in enumerate(message.content):
        where = f"{name}.content.{number}"
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif message.role != "user":
            raise InvalidRequest(f"{where}: pictures and videos are accepted in user turns only", param="messages")
        elif isinstance(part, ImagePart):
            sources.images.append(MediaInput(where, part.image_url.url))
            parts.append(Modality.IMAGE)
        elif isinstance(part, VideoPart):
            sources.videos.append(VideoInput(where, MediaInput(where, part.video_url.url)))
            parts.append(Modality.VIDEO)
    return Turn(message.role, tuple(parts))
