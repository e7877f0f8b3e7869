"""Tokenizers of the language model's prompts, which its chat template writes, and of questions for the CLIP text tower.

Only the `tokenizers` library is used, because `AutoTokenizer` imports torch if torch is installed. If a question has no
special-token strings, its ids equal those of the checkpoint's own processor, with one image token for each image and
one video token for each video.

Text of a client never becomes a special token. While the template runs, placeholders replace the client's text
(`TextPlaceholders`). Special tokens are recognized only in the text of the template (`GuardedTokenizer`).
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
from gateway.core.question_text import Modality, Turn
from gateway.tokenization.chat_prompt import ChatPrompt, LostText
from gateway.tokenization.chat_template import ChatTemplate
from gateway.tokenization.clip_tokenizer import clip_tokenizer_spec
from gateway.tokenization.guarded_tokenizer import GuardedTokenizer
from gateway.tokenization.media_markers import user_turn, without_markers
from gateway.tokenization.text_placeholders import PromptSegment

__all__ = ["PromptTokenizer", "TextTowerTokenizer", "TokenizerFiles"]

TokenizerFiles: Final = checkpoints.CONFIG_FILES

_TOKEN_ID_FIELDS: Final = (
    "image_token_index",
    "image_token_id",
    "video_token_index",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
_SPECIAL_TOKEN_NAMES: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "sep_token",
    "cls_token",
    "mask_token",
)


def _read_json(path: Path) -> dict[str, Any]:
    name = checkpoints.shown_name(path.parent)
    if not path.is_file():
        raise FileNotFoundError(f"{name!r} holds no {path.name}")
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"the {path.name} of {name!r} is not valid JSON") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"the {path.name} of {name!r} is not a JSON object")
    return loaded


def _read_tokenizer(checkpoint: Path, special_tokens: Collection[str | int]) -> GuardedTokenizer:
    spec = _read_json(checkpoint / "tokenizer.json")
    try:
        return GuardedTokenizer(spec, special_tokens)
    except Exception as error:  # the library raises no narrower type
        raise ValueError(f"{checkpoints.shown_name(checkpoint)!r} has no tokenizer.json that can be read") from error


def _special_token_strings(config: Mapping[str, Any]) -> dict[str, str]:
    """Special-token strings by name, from tokenizer_config.json, where each is a string or {"content": ...}."""
    tokens = {name: config[name] for name in _SPECIAL_TOKEN_NAMES if config.get(name)}
    return {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items()}


class PromptTokenizer:
    """Tokenizer of the language model's prompts.

    Args:
        checkpoint: Directory with tokenizer.json, config.json and a chat template.

    Raises:
        FileNotFoundError: One of these files is missing.
        ValueError: The template does not write one image token for an image, or one video token for a video.

    Attributes:
        family: The `model_type` of config.json.
        image_token_id: Id of the image token.
        video_token_id: Id of the video token; None if the checkpoint names none.
        reads_clock: Whether prompts depend on the time, as the template writes them.
    """

    def __init__(self, checkpoint: Path) -> None:
        config = _read_json(checkpoint / "config.json")
        tokenizer_config = checkpoint / "tokenizer_config.json"
        strings = _special_token_strings(_read_json(tokenizer_config)) if tokenizer_config.is_file() else {}
        special_tokens = {*strings.values(), *(config[name] for name in _TOKEN_ID_FIELDS if name in config)}
        self._tokenizer = _read_tokenizer(checkpoint, special_tokens)
        self._bos = strings.get("bos_token")
        self.family = str(config.get("model_type"))
        self.image_token_id: int = config.get("image_token_index", config.get("image_token_id", -1))
        if self.image_token_id not in self._tokenizer.contents:
            raise ValueError("the checkpoint's config.json names no image token that its tokenizer.json has")
        video_token_id: int = config.get("video_token_index", config.get("video_token_id", -1))
        self.video_token_id = video_token_id if video_token_id in self._tokenizer.contents else None
        token_ids = {Modality.IMAGE: self.image_token_id, Modality.VIDEO: self.video_token_id}
        media_tokens = {
            modality: self._media_token(token_id, config)
            for modality, token_id in token_ids.items()
            if token_id is not None
        }
        self._modalities = tuple(media_tokens)
        template = ChatTemplate.load(checkpoint, strings)
        self.reads_clock = template.reads_clock
        self._prompt = ChatPrompt(template, media_tokens)
        self._check_template()

    def _check_template(self) -> None:
        try:
            self.encode("?", num_images=1, num_videos=int(self.video_token_id is not None))
        except InvalidRequest as error:
            reason = error.message.removeprefix("question: ").partition(";")[0]
            raise ValueError(f"a question with an image cannot be written: {reason}") from error

    def _media_token(self, token_id: int, config: Mapping[str, Any]) -> str:
        """Text that replaces a marker such as `<image>`: the media token. If the checkpoint has tokens for the start
        and end of vision (Qwen), they enclose it."""
        ids = [config.get("vision_start_token_id"), token_id, config.get("vision_end_token_id")]
        return "".join(self._tokenizer.contents[i] for i in ids if i in self._tokenizer.contents)

    def encode(self, question: str, *, num_images: int, num_videos: int = 0) -> list[int]:
        """Ids of the prompt of one question, with one image token for each image and one video token for each video.

        Args:
            question: Text of the user. Each `<image>` marks the position of one image and, if the checkpoint has a
                video token, each `<video>` that of one video. Media without a marker come first, images before videos.
            num_images: Number of images.
            num_videos: Number of videos; must be 0 if the checkpoint has no video token.

        Raises:
            InvalidRequest: The question has more markers than images or videos, the question has no text beside the
                markers, or the template refuses the question.
        """
        expected = {Modality.IMAGE: num_images, Modality.VIDEO: num_videos}
        turn = user_turn(question, {modality: expected[modality] for modality in self._modalities})
        return self._ids([turn], num_images, num_videos, "question")

    def encode_history(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a chat history's prompt, with one image token for each image and one video token for each video.

        Images stay in their turn. Their position in the turn depends on the template: LLaVA's puts them first.

        Raises:
            InvalidRequest: The template refuses the history, or leaves out a part of it.
        """
        media = [part for turn in turns for part in turn.parts if isinstance(part, Modality)]
        return self._ids(turns, media.count(Modality.IMAGE), media.count(Modality.VIDEO), "messages")

    def _ids(self, turns: Sequence[Turn], num_images: int, num_videos: int, param: str) -> list[int]:
        segments = self._segments(turns, param)
        # If the template writes BOS itself, no second BOS is added. The checkpoint's processor does the same.
        starts_with_bos = self._bos is not None and segments[0].text.startswith(self._bos)
        ids = self._tokenizer.encode(segments, add_special_tokens=not starts_with_bos)
        media = [i for i in ids if i in (self.image_token_id, self.video_token_id)]
        if (media.count(self.image_token_id), len(media)) != (num_images, num_images + num_videos):
            raise InvalidRequest(
                f"{param}: the checkpoint's chat template does not write one token for each image and video",
                param=param,
            )
        return ids

    def _segments(self, turns: Sequence[Turn], param: str) -> list[PromptSegment]:
        try:
            return self._prompt.write(turns)
        except LostText as error:
            raise InvalidRequest(
                f"{param}: the checkpoint's chat template leaves out text of the {turns[error.turn].role} in turn"
                f" {error.turn + 1} of {len(turns)}; a text in a user turn is accepted",
                param=param,
            ) from error
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"{param}: the checkpoint's chat template refuses this history; turns of user and assistant in"
                " alternation are accepted, after one of the system for most",
                param=param,
            ) from error

    def media_order(self, input_ids: Sequence[int], num_images: int) -> list[int]:
        """Numbers of the media in the order of a prompt. Images are numbered from 0, videos from `num_images`."""
        images, videos = itertools.count(), itertools.count(num_images)
        counters = {self.image_token_id: images}
        if self.video_token_id is not None:
            counters[self.video_token_id] = videos
        return [next(counters[i]) for i in input_ids if i in counters]

    def without_markers(self, question: str) -> str:
        """The text of a question without its media markers, for pruners."""
        return without_markers(question, self._modalities)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens, for encoders that use the language model's input embeddings."""
        return self._tokenizer.encode_plain(text, add_special_tokens=False)


class TextTowerTokenizer:
    """Tokenizer of questions for the CLIP text tower.

    Args:
        checkpoint: Directory of a CLIP checkpoint with tokenizer.json, or with vocab.json and merges.txt.

    Raises:
        FileNotFoundError: These files are missing.
    """

    def __init__(self, checkpoint: Path) -> None:
        if (checkpoint / "tokenizer.json").is_file() or not (checkpoint / "merges.txt").is_file():
            spec = _read_json(checkpoint / "tokenizer.json")
        else:
            vocabulary = _read_json(checkpoint / "vocab.json")
            spec = clip_tokenizer_spec(vocabulary, (checkpoint / "merges.txt").read_text(encoding="utf-8"))
        self._tokenizer = GuardedTokenizer(spec)

    def encode(self, text: str) -> list[int]:
        """Ids of a question without media markers: BOS, text, EOS; neither padded nor truncated.

        The encoder service splits a text that is longer than the tower's context.
        """
        return self._tokenizer.encode_plain(text, add_special_tokens=True)
