"""Tokenized training questions: two dozen short ones and one caption for every training image, on disk.

A *block* is the part of a prompt after the image: "\\n", the question, " ASSISTANT:", the answer and `</s>`.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from lab.balance import pick
from lab.dataset import training_split
from lab.questions import GROUPS, Group, Question, candidates, draw, unique_names
from lab.scenes import IMAGE_SIZE, Scene, sample_scene
from lab.tokenizers import EOS, cached_ids

SHORT_LENGTH = 18
CAPTION_LENGTH = 58
PER_IMAGE = 24
_QUOTA: dict[Group, int] = {
    "color": 3, "shape": 3, "existence": 4, "count": 4, "side": 3, "relation": 4, "reading": 3
}  # fmt: skip
_SPARE: tuple[Group, ...] = ("existence", "count", "side", "relation")
_CHUNK = 500

# Extra questions, for training only. An answer of one bit (left or right, yes or no) is a weak signal: "side" stayed at
# chance until questions for the cell of a 6 x 6 grid were added, and "relation" until questions with two relations to
# choose from were added. Counts above one are rare among the short questions.
EXTRAS_PER_IMAGE = 4
GROUP_NAMES = (*GROUPS, "place", "choice")
_EXTRA_GROUPS = tuple(GROUP_NAMES.index(name) for name in ("place", "choice", "count", "count"))
_PLACE_CELL = IMAGE_SIZE // 6

_FILES = ("short", "captions", "extras")
_FIELDS = ("ids", "start", "stop", "group")


@dataclass(frozen=True)
class Blocks:
    """Right-padded token blocks.

    Attributes:
        ids: token ids, `[..., L]`.
        start, stop: start of the answer and end of the block in tokens, `[...]`.
        group: index into `GROUP_NAMES`, `[...]`.
    """

    ids: npt.NDArray[np.int16]
    start: npt.NDArray[np.int16]
    stop: npt.NDArray[np.int16]
    group: npt.NDArray[np.int16]


class BlockEncoder:
    """Tokenizer of questions with their answers. It caches the ids of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._ids = cached_ids(tokenizer)

    def __call__(self, question: Question, length: int) -> tuple[list[int], int, int]:
        """Ids padded to `length`, start of the answer, and end of the block.

        Raises:
            ValueError: the block has more than `length` tokens.
        """
        prompt = self._ids(f"\n{question.text} ASSISTANT:")
        ids = prompt + self._ids(f" {question.answer}{EOS}")
        if len(ids) > length:
            raise ValueError(f"{len(ids)} tokens do not fit a block of {length}: {question.text} {question.answer}")
        return ids + [0] * (length - len(ids)), len(prompt), len(ids)

    def stack(self, questions: list[Question], length: int) -> Blocks:
        """Blocks of several questions, one for each."""
        rows = [self(question, length) for question in questions]
        ids, start, stop = (np.array([row[i] for row in rows], dtype=np.int16) for i in range(3))
        return Blocks(ids, start, stop, np.array([GROUPS.index(q.group) for q in questions], dtype=np.int16))


def training_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """`PER_IMAGE` short questions in random order, then one caption question."""
    possible = {group: candidates(scene, group, rng) for group in GROUPS}
    groups = [group for group, quota in _QUOTA.items() for _ in range(quota) if possible[group]]
    spare: list[Group] = [group for group in _SPARE if possible[group]]
    while len(groups) < PER_IMAGE:
        groups.append(pick(spare, rng))
    order = rng.permutation(len(groups))
    chosen: list[Group] = [*(groups[i] for i in order), "caption"]
    return [draw(scene, group, possible[group], rng) for group in chosen]


def extra_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Extra questions: the grid cell of a thing (column, row), a choice of two relations, and two higher counts."""
    names = unique_names(scene) or [("", scene.things[0])]
    name, thing = pick(names, rng)
    where = f"{thing.x // _PLACE_CELL + 1} {thing.y // _PLACE_CELL + 1}"
    questions = [Question(scene, f"Where is the {name}?", where, "side")]
    counts = candidates(scene, "count", rng)
    counts = [candidate for candidate in counts if int(candidate.answer) > 1] or counts
    choices = [candidate for candidate in candidates(scene, "relation", rng) if " or " in candidate.template]
    questions.append(draw(scene, "relation", choices, rng) if choices else questions[0])
    return questions + [draw(scene, "count", counts, rng) for _ in range(2)]


def _chunk(tokenizer_folder: str, start: int, stop: int) -> tuple[Blocks, Blocks, Blocks]:
    encode = BlockEncoder(PreTrainedTokenizerFast.from_pretrained(tokenizer_folder))
    short: list[Question] = []
    captions: list[Question] = []
    extras: list[Question] = []
    for index in range(start, stop):
        scene = sample_scene(training_split(index), index)
        questions = training_questions(scene, np.random.default_rng([index, 31]))
        short += questions[:-1]
        captions.append(questions[-1])
        extras += extra_questions(scene, np.random.default_rng([index, 32]))
    more = encode.stack(extras, SHORT_LENGTH)
    more.group[:] = np.resize(_EXTRA_GROUPS, len(extras))
    return encode.stack(short, SHORT_LENGTH), encode.stack(captions, CAPTION_LENGTH), more


def build(folder: Path, tokenizer_folder: Path, count: int, workers: int) -> None:
    """Writes `short.npz`, `captions.npz` and `extras.npz` for the first `count` training images."""
    starts = range(0, count, _CHUNK)
    stops = [min(start + _CHUNK, count) for start in starts]
    parts: list[tuple[Blocks, Blocks, Blocks]] = []
    with ProcessPoolExecutor(workers) as pool:
        for part in pool.map(_chunk, [str(tokenizer_folder)] * len(starts), starts, stops):
            parts.append(part)
            print(f"questions for {stops[len(parts) - 1]}/{count} images", flush=True)
    for which, name in enumerate(_FILES):
        arrays = {field: np.concatenate([getattr(part[which], field) for part in parts]) for field in _FIELDS}
        np.savez(folder / f"{name}.npz", allow_pickle=False, **arrays)


def load(folder: Path) -> tuple[Blocks, Blocks]:
    """Short blocks `[N, 24 + 4, ...]`, the extras last, and captions `[N, ...]`."""
    loaded: dict[str, list[npt.NDArray[np.int16]]] = {}
    for name in _FILES:
        with np.load(folder / f"{name}.npz") as file:
            loaded[name] = [file[field] for field in _FIELDS]
    short = [a.reshape(-1, PER_IMAGE, *a.shape[1:]) for a in loaded["short"]]
    extras = [a.reshape(-1, EXTRAS_PER_IMAGE, *a.shape[1:]) for a in loaded["extras"]]
    together = [np.concatenate(pair, axis=1) for pair in zip(short, extras, strict=True)]
    return Blocks(*together), Blocks(*loaded["captions"])
