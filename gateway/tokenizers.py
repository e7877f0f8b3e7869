"""Questions as ids: for the language model through its chat template, for the CLIP text tower as they are.

The `tokenizers` library alone, for `AutoTokenizer` loads torch where it is installed. For any question without
special-token strings the ids are those of the checkpoint's own processor, with one image token for each picture and one
video token for each video.

A user's text can never become a special token: see `GuardedTokenizer`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2

from fovea import checkpoints
from fovea.errors import InvalidRequest
from gateway.chat_template import ChatTemplate
from gateway.clip_tokenizer import clip_tokenizer_spec
from gateway.guarded_tokenizer import GuardedTokenizer
from gateway.question import Place, Turn

__all__ = ["IMAGE_MARK", "VIDEO_MARK", "PromptTokenizer", "TextTowerTokenizer", "TokenizerFiles"]

IMAGE_MARK: Final = "<image>"
VIDEO_MARK: Final = "<video>"

TokenizerFiles: Final = checkpoints.CONFIG_FILES

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent.name!r} holds no {path.name}")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _special_token_strings(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like from tokenizer_config.json, which holds strings or {"content": ...}."""
    found = {name: config[name] for name in _NAMES if config.get(name)}
    return {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}


def _without_marks(question: str, marks: Collection[str]) -> str:
    if not any(mark in question for mark in marks):
        return question.strip()
    for mark in marks:
        question = question.replace(mark, " ")
    return " ".join(question.split())


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as chat templates take it."""
    content = [
        {"type": part.value} if isinstance(part, Place) else {"type": "text", "text": part} for part in turn.parts
    ]
    return {"role": turn.role, "content": content}


class PromptTokenizer:
    """Questions about pictures and videos as ids of the language model.

    Args:
        checkpoint: Directory with tokenizer.json, config.json and a chat template.

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: The template does not write one image token for one picture, or video token for one video.

    Attributes:
        family: The `model_type` of config.json.
        image_token_id: The id that stands for a picture.
        video_token_id: The id that stands for a video; None where the checkpoint names none.
    """

    def __init__(self, checkpoint: Path) -> None:
        config = _read_json(checkpoint / "config.json")
        tokenizer_config = checkpoint / "tokenizer_config.json"
        names = _special_token_strings(_read_json(tokenizer_config)) if tokenizer_config.is_file() else {}
        self._tokenizer = GuardedTokenizer(_read_json(checkpoint / "tokenizer.json"))
        self._template = ChatTemplate.load(checkpoint, names)
        self._bos = names.get("bos_token")
        self.family = str(config.get("model_type"))
        self.image_token_id: int = config.get("image_token_index", config.get("image_token_id", -1))
        if self.image_token_id not in self._tokenizer.contents:
            raise ValueError("the checkpoint's config.json names no image token that its tokenizer.json has")
        video: int = config.get("video_token_index", config.get("video_token_id", -1))
        self.video_token_id = video if video in self._tokenizer.contents else None
        self._marks = {IMAGE_MARK: self._placed(self.image_token_id, config)}
        if self.video_token_id is not None:
            self._marks[VIDEO_MARK] = self._placed(self.video_token_id, config)
        self.encode("?", num_images=1, num_videos=int(self.video_token_id is not None))

    def _placed(self, token_id: int, config: Mapping[str, Any]) -> str:
        """What stands in a text where a mark is: the token, between those that Qwen's template puts around it."""
        ids = [config.get("vision_start_token_id"), token_id, config.get("vision_end_token_id")]
        return "".join(self._tokenizer.contents[i] for i in ids if i in self._tokenizer.contents)

    def encode(self, question: str, *, num_images: int, num_videos: int = 0) -> list[int]:
        """Ids of the prompt, with exactly one image token for each picture and one video token for each video.

        Args:
            question: The user's text. Each `<image>` in it is the place of one picture, each `<video>` that of one
                video (where the checkpoint has a video token). What has no mark comes first, pictures before videos.
            num_images: Number of pictures.
            num_videos: Number of videos; above 0 only where there is a video token.

        Raises:
            InvalidRequest: More marks than pictures or videos, or no text beside them.
        """
        turn = self._marked_turn(question, {IMAGE_MARK: num_images, VIDEO_MARK: num_videos})
        try:
            return self._ids([turn], num_images, num_videos)
        except jinja2.TemplateError as error:
            raise ValueError("the checkpoint's chat template refuses a question with a picture") from error

    def encode_history(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a chat history, with exactly one image token for each picture and one video token for each video.

        Pictures stay in their turn; where in it is the template's business: LLaVA's put them before the text.

        Raises:
            InvalidRequest: The template refuses the history.
        """
        places = [part for turn in turns for part in turn.parts if isinstance(part, Place)]
        try:
            return self._ids(
                [self._guarded_turn(turn) for turn in turns], places.count(Place.IMAGE), places.count(Place.VIDEO)
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                "messages: the checkpoint's chat template refuses this history; turns of user and assistant in"
                " alternation are accepted, after one of the system for most",
                param="messages",
            ) from error

    def _ids(self, turns: Sequence[Turn], num_images: int, num_videos: int) -> list[int]:
        prompt = self._template.render([_message(turn) for turn in turns])
        # As the checkpoint's processor: a template that writes BOS itself does not get a second one.
        starts_with_bos = self._bos is not None and prompt.startswith(self._bos)
        ids = self._tokenizer.encode(prompt, add_special_tokens=not starts_with_bos)
        places = [i for i in ids if i in (self.image_token_id, self.video_token_id)]
        if (places.count(self.image_token_id), len(places)) != (num_images, num_images + num_videos):
            raise ValueError("the checkpoint's chat template does not write one token for each picture and video")
        return ids

    def _guarded_turn(self, turn: Turn) -> Turn:
        shield = self._tokenizer.shield
        return Turn(turn.role, tuple(part if isinstance(part, Place) else shield(part) for part in turn.parts))

    def _marked_turn(self, question: str, expected: Mapping[str, int]) -> Turn:
        """The user's turn, its marks translated and the rest of its text guarded."""
        if not _without_marks(question, self._marks):
            raise InvalidRequest("question is empty; a text of at least one character is needed", param="question")
        text = self._tokenizer.shield(question, but=self._marks)
        parts: list[str | Place] = []
        for (mark, placed), place in zip(self._marks.items(), Place, strict=False):
            marks, count = question.count(mark), expected[mark]
            if marks > count:
                noun = {Place.IMAGE: "picture", Place.VIDEO: "video"}[place]
                raise InvalidRequest(
                    f"question has {marks} {mark} marks for {count} {noun}{'s' * (count != 1)};"
                    f" at most one for each {noun} is accepted",
                    param="question",
                )
            parts += [place] * (count - marks)
            text = text.replace(mark, placed)
        return Turn("user", (*parts, text))

    def visual_order(self, input_ids: Sequence[int], num_images: int) -> list[int]:
        """In which order a prompt reads what stands in it: numbers of the pictures, and of the videos after those."""
        images, videos = itertools.count(), itertools.count(num_images)
        counters = {self.image_token_id: images}
        if self.video_token_id is not None:
            counters[self.video_token_id] = videos
        return [next(counters[i]) for i in input_ids if i in counters]

    def without_marks(self, question: str) -> str:
        """The text of a question as pruners read it."""
        return _without_marks(question, self._marks)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` alone, without special tokens: for encoders that compare it as the language model embeds it."""
        return self._tokenizer.encode_plain(text, add_special_tokens=False)


class TextTowerTokenizer:
    """A question as ids of the CLIP text tower: BOS, words, EOS; neither padded nor truncated.

    Args:
        checkpoint: Directory of a CLIP checkpoint with tokenizer.json, or with vocab.json and merges.txt.

    Raises:
        FileNotFoundError: They are not there.
    """

    def __init__(self, checkpoint: Path) -> None:
        if (checkpoint / "tokenizer.json").is_file() or not (checkpoint / "merges.txt").is_file():
            spec = _read_json(checkpoint / "tokenizer.json")
        else:
            vocabulary = _read_json(checkpoint / "vocab.json")
            spec = clip_tokenizer_spec(vocabulary, (checkpoint / "merges.txt").read_text(encoding="utf-8"))
        self._tokenizer = GuardedTokenizer(spec)

    def encode(self, text: str) -> list[int]:
        """Ids of a question without its marks. Texts longer than the tower are cut into windows by the encoder
        service."""
        return self._tokenizer.encode_plain(text, add_special_tokens=True)
