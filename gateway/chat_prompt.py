"""Turns to a prompt of which is known, stretch by stretch, who wrote it: the chat template or the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jinja2

from gateway.chat_template import ChatTemplate
from gateway.question import InterleavedText, Modality, Turn
from gateway.text_placeholders import PromptSegment, TextPlaceholders

__all__ = ["ChatPrompt", "LostText"]


class LostText(jinja2.TemplateRuntimeError):
    """The template leaves out what a client wrote.

    Attributes:
        turn: Number of the first turn that it happens to.
    """

    def __init__(self, turn: int) -> None:
        super().__init__(f"the template leaves out text of turn {turn}")
        self.turn = turn


class ChatPrompt:
    """Writes prompts.

    Args:
        template: the checkpoint's chat template.
        marks: text that stands for an image or a video, by kind.
    """

    def __init__(self, template: ChatTemplate, marks: Mapping[Modality, str]) -> None:
        self._template = template
        self._marks = marks

    def write(self, turns: Sequence[Turn]) -> list[PromptSegment]:
        """The prompt that asks for the assistant's next turn.

        A template may read only one text of a turn, or want a string. Turns of which it leaves something out are
        offered to it in those shapes; all others are what transformers passes.

        Raises:
            LostText: Something is left out all the same.
            jinja2.TemplateError: The template refuses these turns.
        """
        placeholders = TextPlaceholders()
        messages = [self._message(turn, placeholders) for turn in turns]
        prompt = self._template.render(messages)
        for reshape in _SHAPES:
            lost = _lost(messages, prompt, placeholders)
            if not lost:
                break
            messages = [reshape(message) if i in lost else message for i, message in enumerate(messages)]
            prompt = self._template.render(messages)
        if lost := _lost(messages, prompt, placeholders):
            raise LostText(min(lost))
        return placeholders.pieces(prompt)

    def _message(self, turn: Turn, placeholders: TextPlaceholders) -> dict[str, Any]:
        """A turn as chat templates take it."""
        content = [
            {"type": part.value}
            if isinstance(part, Modality)
            else {"type": "text", "text": self._text(part, placeholders)}
            for part in turn.parts
        ]
        return {"role": turn.role, "content": content}

    def _text(self, part: str | InterleavedText, placeholders: TextPlaceholders) -> str:
        pieces = (part,) if isinstance(part, str) else part.pieces
        return "".join(
            self._marks[piece] if isinstance(piece, Modality) else placeholders.hide(piece) for piece in pieces
        )


def _lost(messages: Sequence[Mapping[str, Any]], prompt: str, placeholders: TextPlaceholders) -> set[int]:
    """Numbers of the turns of which the prompt lacks a text."""
    written = placeholders.names(prompt)
    return {i for i, message in enumerate(messages) if placeholders.names(_joined(message["content"])) - written}


def _joined(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _one_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """The turn with its texts as one, in front of its media."""
    others = [part for part in message["content"] if part["type"] != "text"]
    return {**message, "content": [{"type": "text", "text": _joined(message["content"])}, *others]}


def _string(message: Mapping[str, Any]) -> dict[str, Any]:
    """The turn as a string, if it holds no media."""
    only_text = all(part["type"] == "text" for part in message["content"])
    return {**message, "content": _joined(message["content"])} if only_text else dict(message)


_SHAPES: Final = (_one_text, _string)
