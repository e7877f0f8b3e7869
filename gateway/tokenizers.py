"""Questions as ids: for the language model through its chat template, for the CLIP text tower as they are.

The `tokenizers` library alone, for `AutoTokenizer` loads torch where it is installed. For any question without
special-token strings the ids are those of the checkpoint's own processor, with one image token for each picture.

A user's text can never become a special token. Every special token of the tokenizer is renamed to a string that
nobody can guess, its id unchanged; only what the *template* wrote, and the user's image marks, are translated to the
new names. A `</s>` typed by a user is then five characters like any others.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from tokenizers import Tokenizer

from fovea import checkpoints
from fovea.errors import InvalidRequest
from gateway.chat_template import ChatTemplate

__all__ = ["IMAGE_MARK", "PromptTokenizer", "TextTowerTokenizer", "TokenizerFiles"]

IMAGE_MARK: Final = "<image>"

TokenizerFiles: Final = checkpoints.CONFIG_FILES

_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent.name!r} holds no {path.name}")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


class _GuardedTokenizer:
    """A tokenizer.json whose special tokens answer to secret names only.

    Attributes:
        contents: Special-token strings by id, as the checkpoint spells them.
    """

    def __init__(self, checkpoint: Path) -> None:
        spec = _read_json(checkpoint / "tokenizer.json")
        specials = [token for token in spec["added_tokens"] if token["special"]]
        self.contents: dict[int, str] = {token["id"]: token["content"] for token in specials}
        # Private-use characters and digits pass every normalizer, and a template's `upper` or `trim`, unchanged.
        nonce = f"{secrets.randbits(64):020}"
        self._secret = {content: f"\ue000{nonce}{i}\ue001" for i, content in self.contents.items()}
        self._shield = {content: f"\ue002{nonce}{i}\ue003" for i, content in self.contents.items()}
        for token in specials:
            token["content"] = self._secret[token["content"]]
        self._rename_vocabulary(spec["model"])
        longest_first = sorted(self._secret, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._shielded = {shield: content for content, shield in self._shield.items()}
        self._shield_pattern = re.compile(f"\ue002{nonce}[0-9]+\ue003")
        self._tokenizer = Tokenizer.from_str(json.dumps(spec))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def _rename_vocabulary(self, model: dict[str, Any]) -> None:
        vocabulary = model.get("vocab", {})
        if isinstance(vocabulary, dict):
            model["vocab"] = {self._secret.get(word, word): i for word, i in vocabulary.items()}
        else:  # unigram: pairs of word and score
            model["vocab"] = [[self._secret.get(word, word), score] for word, score in vocabulary]
        if model.get("unk_token") in self._secret:
            model["unk_token"] = self._secret[model["unk_token"]]

    def shield(self, text: str, *, but: str) -> str:
        """`text` with its special-token strings hidden from `encode`, except `but`."""
        return self._pattern.sub(lambda m: m[0] if m[0] == but else self._shield[m[0]], text)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text`: special-token strings become special tokens, shielded ones plain text."""
        text = self._pattern.sub(lambda m: self._secret[m[0]], text)
        text = self._shield_pattern.sub(lambda m: self._shielded.get(m[0], m[0]), text)
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Ids of `text` with nothing in it taken for a special token; BOS and EOS as the tokenizer adds them."""
        return list(self._tokenizer.encode(text, add_special_tokens=True).ids)


def _special_token_strings(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like from tokenizer_config.json, which holds strings or {"content": ...}."""
    found = {name: config[name] for name in _NAMES if config.get(name)}
    return {name: value["content"] if isinstance(value, dict) else value for name, value in found.items()}


class PromptTokenizer:
    """A question with pictures as ids of the language model.

    Args:
        checkpoint: Directory with tokenizer.json, config.json and a chat template.

    Raises:
        FileNotFoundError: One of them is missing.
        ValueError: The template does not write one image token for one picture.

    Attributes:
        image_token_id: The id that stands for a picture.
    """

    def __init__(self, checkpoint: Path) -> None:
        config = _read_json(checkpoint / "config.json")
        tokenizer_config = checkpoint / "tokenizer_config.json"
        names = _special_token_strings(_read_json(tokenizer_config)) if tokenizer_config.is_file() else {}
        self._tokenizer = _GuardedTokenizer(checkpoint)
        self._template = ChatTemplate.load(checkpoint, names)
        self._bos = names.get("bos_token")
        self.image_token_id: int = config.get("image_token_index", config.get("image_token_id", -1))
        if self.image_token_id not in self._tokenizer.contents:
            raise ValueError("the checkpoint's config.json names no image token that its tokenizer.json has")
        self._image_token = self._tokenizer.contents[self.image_token_id]
        self.encode("?", num_images=1)

    def encode(self, question: str, *, num_images: int) -> list[int]:
        """Ids of the prompt, BOS included, with exactly `num_images` image tokens.

        Args:
            question: The user's text. Each `<image>` in it is the place of one picture; pictures without a mark
                come first.
            num_images: Number of pictures.

        Raises:
            InvalidRequest: More marks than pictures, or no text beside them.
        """
        marks = question.count(IMAGE_MARK)
        if marks > num_images:
            raise InvalidRequest(
                f"question has {marks} {IMAGE_MARK} marks for {num_images} picture{'s' * (num_images != 1)};"
                " at most one for each picture is accepted",
                param="question",
            )
        if not question.replace(IMAGE_MARK, "").strip():
            raise InvalidRequest("question is empty; a text of at least one character is needed", param="question")
        text = self._tokenizer.shield(question, but=IMAGE_MARK).replace(IMAGE_MARK, self._image_token)
        pictures = [{"type": "image"}] * (num_images - marks)
        try:
            prompt = self._template.render([{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}])
        except jinja2.TemplateError as error:
            raise ValueError("the checkpoint's chat template refuses a question with a picture") from error
        # As the checkpoint's processor: a template that writes BOS itself does not get a second one.
        starts_with_bos = self._bos is not None and prompt.startswith(self._bos)
        ids = self._tokenizer.encode(prompt, add_special_tokens=not starts_with_bos)
        if ids.count(self.image_token_id) != num_images:
            raise ValueError("the checkpoint's chat template does not write one image token for each picture")
        return ids


class TextTowerTokenizer:
    """A question as ids of the CLIP text tower: BOS, words, EOS; neither padded nor truncated.

    Args:
        checkpoint: Directory of a CLIP checkpoint with tokenizer.json.

    Raises:
        FileNotFoundError: There is no tokenizer.json.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._tokenizer = _GuardedTokenizer(checkpoint)

    def encode(self, question: str) -> list[int]:
        """Ids of the question without its image marks. Texts longer than the tower are cut into windows by the
        encoder service."""
        return self._tokenizer.encode_plain(" ".join(question.replace(IMAGE_MARK, " ").split()))
