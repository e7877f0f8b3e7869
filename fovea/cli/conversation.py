"""Turns of a chat, and the images that were added to it."""

from __future__ import annotations

from collections.abc import Sequence

from fovea.client.form_parts import Medium, Message, user_message

__all__ = ["Conversation"]


class Conversation:
    """History of questions with their images, and of answers.

    Args:
        images: images of the first question.
    """

    def __init__(self, images: Sequence[Medium]) -> None:
        self._messages: list[Message] = []
        self._sent: list[Medium] = []
        self._added = list(images)

    @property
    def num_images(self) -> int:
        """Images of the whole conversation."""
        return len(self._sent) + len(self._added)

    def add_images(self, images: Sequence[Medium]) -> None:
        """Adds images to the next question."""
        self._added += images

    def ask(self, question: str) -> list[Message]:
        """History that ends with a question. The conversation has it once `answered` was called.

        Raises:
            UnreadableMedium: a file cannot be read.
        """
        self._asked = user_message(question, self._added)
        return [*self._messages, self._asked]

    def answered(self, answer: str) -> None:
        """Keeps the last question, its images and its answer."""
        self._messages += [self._asked, {"role": "assistant", "content": answer}]
        self._sent += self._added
        self._added = []

    def reset(self) -> None:
        """Forgets questions and answers. All images go with the next question."""
        self._messages, self._added, self._sent = [], [*self._sent, *self._added], []

    def clear(self) -> None:
        """Forgets questions, answers and images."""
        self._messages, self._added, self._sent = [], [], []
