"""The texts on which the tokenizers are trained, and token blocks of questions and dialogues.

A *block* is the part of a prompt after the image: "\\n", the question, " ASSISTANT:", the answer and `</s>`. In a
dialogue "USER: ", the second question and so on follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from lab.tokenizers import EOS, cached_ids, train_clip_tokenizer, train_llava_tokenizer
from lab.world576.captions import CONCEPTS, composite_caption, concept_text
from lab.world576.dialogues import sample_dialogue
from lab.world576.questions import GROUPS, Question, ask
from lab.world576.scenes import sample_scene

SHORT_LENGTH: Final = 22
DIALOGUE_LENGTH: Final = 44
CAPTION_LENGTH: Final = 76
CLIP_SHORT_LENGTH: Final = 18
CLIP_LONG_LENGTH: Final = 48
_LLAVA_VOCABULARY: Final = 1000


def _corpus(num_scenes: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    for concept in CONCEPTS:
        text = concept_text(concept, rng)
        yield f"USER: \n{text} ASSISTANT: {' '.join(concept[1:])}"
    for index in range(num_scenes):
        scene = sample_scene("crowded" if index % 2 else "easy", index)
        yield composite_caption(scene, rng)
        for group in GROUPS:
            question = ask(scene, group, rng)
            if question is not None:
                yield f"USER: \n{question.text} ASSISTANT: {question.answer}"
        dialogue = sample_dialogue(scene, rng)
        if dialogue is not None:
            yield f"USER: {dialogue.second.text} ASSISTANT: {dialogue.second.answer}"


def train_tokenizers(num_scenes: int) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Tokenizers of CLIP and of LLaVA, trained on the texts of `num_scenes` scenes and on all concepts."""
    texts = list(_corpus(num_scenes))
    return train_clip_tokenizer(texts), train_llava_tokenizer(texts, _LLAVA_VOCABULARY)


class BlockEncoder:
    """Encoder of questions with their answers as token blocks. It caches the ids of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._ids = cached_ids(tokenizer)

    def __call__(
        self, questions: Sequence[Question], length: int
    ) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        """Ids padded to `length`, and whether each token belongs to an answer, `[length]` each.

        Args:
            questions: one question, or the two of a dialogue.
            length: number of tokens of a block.

        Raises:
            ValueError: the block has more than `length` tokens.
        """
        ids: list[int] = []
        answers: list[bool] = []
        for turn, question in enumerate(questions):
            prompt = self._ids(f"USER: {question.text} ASSISTANT:" if turn else f"\n{question.text} ASSISTANT:")
            answer = self._ids(f" {question.answer}{EOS}")
            ids += prompt + answer
            answers += [False] * len(prompt) + [True] * len(answer)
        if len(ids) > length:
            raise ValueError(f"{len(ids)} tokens do not fit a block of {length}: {questions[0].text}")
        padding = length - len(ids)
        return np.array(ids + [0] * padding, dtype=np.int16), np.array(answers + [False] * padding)


def clip_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], length: int) -> npt.NDArray[np.int16]:
    """Ids of texts, padded or cut to `length` with an EOS at the end, `[len(texts), length]`."""
    ids = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)["input_ids"]
    return np.array(ids, dtype=np.int16)
