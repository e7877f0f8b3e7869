"""Prompts written by a chat template, with the author of each segment: the template or the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jinja2

from gateway.core.question_text import InterleavedText, Modality, Turn
from gateway.tokenization.chat_template import ChatTemplate
from gateway.tokenization.text_placeholders import PromptSegment, TextPlaceholders

__all__ = ["ChatPrompt", "LostText"]


class LostText(jinja2.TemplateRuntimeError):
    """The chat template leaves out a text of the client.

    Attributes:
        turn: number of the first such turn, from 0.
    """

    def __init__(self, turn: int) -> None:
        super().__init__(f"the template leaves out text of turn {turn}")
        self.turn = turn


class ChatPrompt:
    """Writer of prompts.

    Args:
        template: chat template of the checkpoint.
        media_tokens: text that stands for an image or a video inside a text.
    """

    def __init__(self, template: ChatTemplate, media_tokens: Mapping[Modality, str]) -> None:
        self._template = template
        self._media_tokens = media_tokens

    def write(self, turns: Sequence[Turn]) -> list[PromptSegment]:
        """The prompt that asks for the assistant's next turn.

        A template may read only one text of a turn, or expect a string. A turn whose text is lost is rendered again in
        those shapes. All other turns have the shape that transformers passes.

        Raises:
            LostText: the template leaves out a text in every shape.
            jinja2.TemplateError: the template refuses these turns.
        """
        placeholders = TextPlaceholders()
        messages = [self._message(turn, placeholders) for turn in turns]
        prompt = self._template.render(messages)
        for reshape in _SHAPES:
            lost = _lost_turns(messages, prompt, placeholders)
            if not lost:
                break
            messages = [reshape(message) if i in lost else message for i, message in enumerate(messages)]
            prompt = self._template.render(messages)
        if lost := _lost_turns(messages, prompt, placeholders):
            raise LostText(min(lost))
        return placeholders.restore(prompt)

    def _message(self, turn: Turn, placeholders: TextPlaceholders) -> dict[str, Any]:
        """The turn as the message that chat templates read."""
        content = [
            {"type": part.value}
            if isinstance(part, Modality)
            else {"type": "text", "text": self._text(part, placeholders)}
            for part in turn.parts
        ]
        return {"role": turn.role, "content": content}

    def _text(self, part: str | InterleavedText, placeholders: TextPlaceholders) -> str:
        segments = (part,) if isinstance(part, str) else part.segments
        return "".join(
            self._media_tokens[segment] if isinstance(segment, Modality) else placeholders.substitute(segment)
            for segment in segments
        )


def _lost_turns(messages: Sequence[Mapping[str, Any]], prompt: str, placeholders: TextPlaceholders) -> set[int]:
    """Numbers of the turns that have a text which is missing in the prompt."""
    written = placeholders.numbers_in(prompt)
    return {
        i for i, message in enumerate(messages) if placeholders.numbers_in(_joined_text(message["content"])) - written
    }


def _joined_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _with_one_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its texts joined into one part, before its media."""
    media = [part for part in message["content"] if part["type"] != "text"]
    return {**message, "content": [{"type": "text", "text": _joined_text(message["content"])}, *media]}


def _with_string_content(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with a string as its content; unchanged if it holds media."""
    only_text = all(part["type"] == "text" for part in message["content"])
    return {**message, "content": _joined_text(message["content"])} if only_text else dict(message)


_SHAPES: Final = (_with_one_text, _with_string_content)
