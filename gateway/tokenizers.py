"""Questions as ids: for the language model through its chat template, for the CLIP text tower as they are.

The `tokenizers` library alone, for `AutoTokenizer` loads torch where it is installed. For any question without
special-token strings the ids are those of the checkpoint's own processor, with one image token for each picture and one
video token for each video.

No text of a client becomes a special token, however it is cut: while the template runs, names stand for it
(`TextPlaceholders`), and special tokens are recognised where the template wrote them (`GuardedTokenizer`).
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
from gateway.chat_prompt import ChatPrompt, LostText
from gateway.chat_template import ChatTemplate
from gateway.clip_tokenizer import clip_tokenizer_spec
from gateway.guarded_tokenizer import GuardedTokenizer
from gateway.media_markers import user_turn, without_markers
from gateway.question import Modality, Turn
from gateway.text_placeholders import PromptSegment

__all__ = ["PromptTokenizer", "TextTowerTokenizer", "TokenizerFiles"]

TokenizerFiles: Final = checkpoints.CONFIG_FILES

_IDS: Final = (
    "image_token_index",
    "image_token_id",
    "video_token_index",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
)
_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


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


def _read_tokenizer(checkpoint: Path, named: Collection[str | int]) -> GuardedTokenizer:
    spec = _read_json(checkpoint / "tokenizer.json")
    try:
        return GuardedTokenizer(spec, named)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{checkpoints.shown_name(checkpoint)!r} has no tokenizer.json that can be read") from error


def _special_token_strings(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like from tokenizer_config.json, which holds strings or {"content": ...}."""
    found = {name: config[name] for name in _NAMES if config.get(name)}
    return {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}


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
        named = {*names.values(), *(config[name] for name in _IDS if name in config)}
        self._tokenizer = _read_tokenizer(checkpoint, named)
        self._bos = names.get("bos_token")
        self.family = str(config.get("model_type"))
        self.image_token_id: int = config.get("image_token_index", config.get("image_token_id", -1))
        if self.image_token_id not in self._tokenizer.contents:
            raise ValueError("the checkpoint's config.json names no image token that its tokenizer.json has")
        video: int = config.get("video_token_index", config.get("video_token_id", -1))
        self.video_token_id = video if video in self._tokenizer.contents else None
        ids = {Modality.IMAGE: self.image_token_id, Modality.VIDEO: self.video_token_id}
        placed = {place: self._placed(token_id, config) for place, token_id in ids.items() if token_id is not None}
        self._places = tuple(placed)
        self._prompt = ChatPrompt(ChatTemplate.load(checkpoint, names), placed)
        self._try()

    def _try(self) -> None:
        try:
            self.encode("?", num_images=1, num_videos=int(self.video_token_id is not None))
        except InvalidRequest as error:
            reason = error.message.removeprefix("question: ").partition(";")[0]
            raise ValueError(f"a question with an image cannot be written: {reason}") from error

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
            InvalidRequest: More marks than pictures or videos, no text beside them, or the template cannot write this.
        """
        expected = {Modality.IMAGE: num_images, Modality.VIDEO: num_videos}
        turn = user_turn(question, {place: expected[place] for place in self._places})
        return self._ids([turn], num_images, num_videos, "question")

    def encode_history(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a chat history, with exactly one image token for each picture and one video token for each video.

        Pictures stay in their turn; where in it is the template's business: LLaVA's put them before the text.

        Raises:
            InvalidRequest: The template refuses the history, or leaves something of it out.
        """
        places = [part for turn in turns for part in turn.parts if isinstance(part, Modality)]
        return self._ids(turns, places.count(Modality.IMAGE), places.count(Modality.VIDEO), "messages")

    def _ids(self, turns: Sequence[Turn], num_images: int, num_videos: int, param: str) -> list[int]:
        pieces = self._pieces(turns, param)
        # As the checkpoint's processor: a template that writes BOS itself does not get a second one.
        starts_with_bos = self._bos is not None and pieces[0].text.startswith(self._bos)
        ids = self._tokenizer.encode(pieces, add_special_tokens=not starts_with_bos)
        places = [i for i in ids if i in (self.image_token_id, self.video_token_id)]
        if (places.count(self.image_token_id), len(places)) != (num_images, num_images + num_videos):
            raise InvalidRequest(
                f"{param}: the checkpoint's chat template does not write one token for each image and video",
                param=param,
            )
        return ids

    def _pieces(self, turns: Sequence[Turn], param: str) -> list[PromptSegment]:
        try:
            return self._prompt.write(turns)
        except LostText as error:
            raise InvalidRequest(
                f"{param}: the checkpoint's chat template leaves out what the {turns[error.turn].role} says in turn"
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
        """In which order a prompt reads what stands in it: numbers of the pictures, and of the videos after those."""
        images, videos = itertools.count(), itertools.count(num_images)
        counters = {self.image_token_id: images}
        if self.video_token_id is not None:
            counters[self.video_token_id] = videos
        return [next(counters[i]) for i in input_ids if i in counters]

    def without_markers(self, question: str) -> str:
        """The text of a question as pruners read it."""
        return without_markers(question, self._places)

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
