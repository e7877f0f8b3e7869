"""Queue of admitted prompts that are not prefilled yet, and what of them the next step runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Chunk", "PrefillQueue", "PrefillWork"]

Prompt = TypeVar("Prompt")


@dataclass(frozen=True)
class PrefillWork(Generic[Prompt]):
    """What one step prefills: prompts as a whole, or a chunk of one prompt.

    Attributes:
        whole: Prompts to prefill whole.
        chunk: Chunk of a long prompt; None for none.
    """

    whole: list[Prompt]
    chunk: Chunk[Prompt] | None = None


@dataclass(frozen=True)
class Chunk(Generic[Prompt]):
    """Consecutive tokens of a prompt.

    Attributes:
        prompt: The prompt.
        start: Index of the first token.
        end: Index behind the last token.
        is_last: Flag: the prompt ends with it.
    """

    prompt: Prompt
    start: int
    end: int
    is_last: bool


@dataclass
class _Waiting(Generic[Prompt]):
    prompt: Prompt
    length: int
    num_done: int = 0


class PrefillQueue(Generic[Prompt]):
    """Prompts in order of admission."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting[Prompt]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, prompt: Prompt, length: int) -> None:
        """Appends a prompt of `length` tokens."""
        self._waiting.append(_Waiting(prompt, length))

    def remove(self, is_gone: Callable[[Prompt], bool]) -> None:
        """Removes the prompts for which `is_gone` is true."""
        self._waiting = deque(waiting for waiting in self._waiting if not is_gone(waiting.prompt))

    def next_work(self, max_tokens: int | None) -> PrefillWork[Prompt]:
        """Takes what the next step prefills: prompts in order while their tokens fit.

        A prompt longer than `max_tokens` is run in chunks of up to so many tokens, each in a step of its own.

        Args:
            max_tokens: Most tokens of a step; None for no limit.
        """
        whole: list[Prompt] = []
        num_left = max_tokens
        while self._waiting:
            first = self._waiting[0]
            if first.num_done == 0 and (num_left is None or first.length <= num_left):
                whole.append(self._waiting.popleft().prompt)
                num_left = None if num_left is None else num_left - first.length
            elif whole:
                break
            else:
                return PrefillWork([], self._next_chunk(max_tokens))
        return PrefillWork(whole)

    def _next_chunk(self, max_tokens: int | None) -> Chunk[Prompt]:
        """Next chunk of the first prompt. The chunks that are left have nearly one size, so none is of a few tokens."""
        first = self._waiting[0]
        start, left = first.num_done, first.length - first.num_done
        num_chunks = 1 if max_tokens is None else -(-left // max_tokens)
        first.num_done += -(-left // num_chunks)
        if first.num_done == first.length:
            self._waiting.popleft()
        return Chunk(first.prompt, start, first.num_done, is_last=first.num_done == first.length)
