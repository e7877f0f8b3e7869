"""The pool of training scenes: all that a step needs of each scene, as arrays.

Scenes and their texts are sampled and tokenized once, by several processes. Images are not stored: each step composes
its own.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from lab.balance import pick
from lab.scenes import Split
from lab.world576.captions import composite_caption, concept_labels
from lab.world576.composition import PackedScenes, pack
from lab.world576.dialogues import sample_dialogue
from lab.world576.kinds import COLORS, DISTRACTORS, OBJECT_KINDS
from lab.world576.questions import GROUPS, Group, Question, candidates, draw, unique_names
from lab.world576.scenes import IMAGE_SIZE, MAX_THINGS, Scene, sample_scene, thing_of_patch
from lab.world576.texts import (
    CAPTION_LENGTH,
    CLIP_LONG_LENGTH,
    DIALOGUE_LENGTH,
    SHORT_LENGTH,
    BlockEncoder,
    clip_ids,
)

ALL_KINDS: Final = (*OBJECT_KINDS, *DISTRACTORS)
THING_FIELDS: Final = ("kind", "look", "x", "y")
# Per 12 scenes: one simple, five easy, six crowded.
_CYCLE: Final[tuple[Split, ...]] = ("simple", "easy", "crowded") + ("easy", "crowded") * 4 + ("crowded",)
CYCLE: Final = len(_CYCLE)

PER_SCENE: Final = 20
_QUOTA: Final[dict[Group, int]] = {
    "color": 2,
    "kind": 3,
    "existence": 3,
    "count": 3,
    "side": 2,
    "relation": 3,
    "reading": 2,
}
_SPARE: Final[tuple[Group, ...]] = ("existence", "count", "existence", "count", "side", "relation")
# Answers of one bit (left or right, yes or no) are a weak signal, so training also asks for the cell of a 6 x 6 grid.
_PLACES: Final = 2
_PLACE_CELL: Final = IMAGE_SIZE // 6
GROUP_NAMES: Final = (*GROUPS, "place", "dialogue")
_PLACE_GROUP: Final = GROUP_NAMES.index("place")
_CHUNK = 250


@dataclass(frozen=True)
class Pool:
    """Arrays with one row for each training scene; the seed of a scene is its row.

    Attributes:
        scenes: scenes to compose.
        thing_of_patch: index of each patch's thing or -1, `[N, 576]` int8.
        things: kind in `ALL_KINDS`, colour (8: none) and centre of each thing, `[N, 20, 4]` int16.
        concepts: bits of `captions.concept_labels`, packed, `[N, bytes]` uint8.
        tinted: whether the scene is tinted, `[N]`.
        captions: ids of a composite caption for CLIP, `[N, 48]` int16.
        short, short_answers: blocks of questions and their answer masks, `[N, 20, 22]`.
        short_groups: index of each question's group in `GROUP_NAMES`, `[N, 20]`.
        dialogue, dialogue_answers: block of a dialogue and its answer mask, `[N, 1, 44]`.
        caption, caption_answers: block of a caption question and its answer mask, `[N, 1, 76]`.
    """

    scenes: PackedScenes
    thing_of_patch: npt.NDArray[np.int8]
    things: npt.NDArray[np.int16]
    concepts: npt.NDArray[np.uint8]
    tinted: npt.NDArray[np.bool_]
    captions: npt.NDArray[np.int16]
    short: npt.NDArray[np.int16]
    short_answers: npt.NDArray[np.bool_]
    short_groups: npt.NDArray[np.int8]
    dialogue: npt.NDArray[np.int16]
    dialogue_answers: npt.NDArray[np.bool_]
    caption: npt.NDArray[np.int16]
    caption_answers: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tinted)

    def sample(self, count: int, crowded: bool, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Rows of `count` random scenes; without crowded ones where `crowded` is false."""
        splits = [place for place, split in enumerate(_CYCLE) if crowded or split != "crowded"]
        cycles = rng.integers(0, len(self) // CYCLE, count)
        rows: npt.NDArray[np.int64] = cycles * CYCLE + rng.choice(np.array(splits, dtype=np.int64), count)
        return rows


def training_split(index: int) -> Split:
    """Split of training scene `index`, whose seed is the index itself."""
    return _CYCLE[index % CYCLE]


def _place_question(scene: Scene, rng: np.random.Generator) -> Question | None:
    names = unique_names(scene)
    if not names:
        return None
    name, index = pick(names, rng)
    thing = scene.things[index]
    where = f"{thing.x // _PLACE_CELL + 1} {thing.y // _PLACE_CELL + 1}"
    return Question(scene, f"Where is the {name}?", where, "side", frozenset([index]))


def training_questions(scene: Scene, rng: np.random.Generator) -> tuple[list[Question], list[int]]:
    """`PER_SCENE` short questions in random order, and the index of each one's group in `GROUP_NAMES`."""
    possible = {group: candidates(scene, group, rng) for group in GROUPS[:-1]}
    groups = [group for group, quota in _QUOTA.items() for _ in range(quota) if possible[group]]
    spare = [group for group in _SPARE if possible[group]]
    places = [question for _ in range(_PLACES) if (question := _place_question(scene, rng))]
    while len(groups) + len(places) < PER_SCENE:
        groups.append(pick(spare, rng))
    questions = places + [draw(scene, group, possible[group], rng) for group in groups]
    indices = [_PLACE_GROUP] * len(places) + [GROUPS.index(group) for group in groups]
    order = rng.permutation(PER_SCENE)
    return [questions[i] for i in order], [indices[i] for i in order]


def _thing_fields(scene: Scene) -> npt.NDArray[np.int16]:
    colors = list(COLORS)
    fields_ = np.full((MAX_THINGS, len(THING_FIELDS)), -1, dtype=np.int16)
    for row, thing in enumerate(scene.things):
        look = colors.index(thing.look) if thing.look else len(colors)
        fields_[row] = ALL_KINDS.index(thing.kind), look, thing.x, thing.y
    return fields_


@cache
def _tokenizer(folder: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _chunk(clip_folder: str, llava_folder: str, start: int, stop: int) -> dict[str, npt.NDArray[np.generic]]:
    encode = BlockEncoder(_tokenizer(llava_folder))
    rows: dict[str, list[npt.NDArray[np.generic]]] = {}
    scenes, captions = [], []
    for index in range(start, stop):
        scene = sample_scene(training_split(index), index)
        rng = np.random.default_rng([index, 31])
        questions, groups = training_questions(scene, rng)
        described = draw(scene, "caption", candidates(scene, "caption", rng), rng)
        dialogue = sample_dialogue(scene, rng)
        turns = [dialogue.first, dialogue.second] if dialogue else questions[:1]
        scenes.append(scene)
        captions.append(composite_caption(scene, rng))
        short = [encode([question], SHORT_LENGTH) for question in questions]
        both, described_block = encode(turns, DIALOGUE_LENGTH), encode([described], CAPTION_LENGTH)
        row: dict[str, npt.NDArray[np.generic]] = {
            "thing_of_patch": thing_of_patch(scene),
            "things": _thing_fields(scene),
            "concepts": np.packbits(concept_labels(scene)),
            "tinted": np.array(scene.tinted),
            "short": np.stack([ids for ids, _ in short]),
            "short_answers": np.stack([answers for _, answers in short]),
            "short_groups": np.array(groups, dtype=np.int8),
            "dialogue": both[0][None],
            "dialogue_answers": both[1][None],
            "caption": described_block[0][None],
            "caption_answers": described_block[1][None],
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    arrays = {name: np.stack(values) for name, values in rows.items()}
    arrays["captions"] = clip_ids(_tokenizer(clip_folder), captions, CLIP_LONG_LENGTH)
    packed = pack(scenes)
    return arrays | {f"scenes.{field.name}": getattr(packed, field.name) for field in fields(packed)}


def build(file: Path, clip_folder: Path, llava_folder: Path, count: int, workers: int) -> None:
    """Writes the pool of the first `count` training scenes to an `.npz` file, with `workers` processes.

    Args:
        file: file to write; it is whole at any time.
        clip_folder, llava_folder: folders with the tokenizers.
        count: number of scenes, rounded down to whole cycles of the splits.
        workers: number of processes; 1: none beside this one.
    """
    count = max(CYCLE, count - count % CYCLE)
    starts = range(0, count, _CHUNK)
    stops = [min(start + _CHUNK, count) for start in starts]
    folders = [str(clip_folder)] * len(starts), [str(llava_folder)] * len(starts)
    if workers > 1:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads or a GPU may hang
        with ProcessPoolExecutor(workers, mp_context=context) as executor:
            parts = list(executor.map(_chunk, *folders, starts, stops))
    else:
        parts = [_chunk(str(clip_folder), str(llava_folder), *span) for span in zip(starts, stops, strict=True)]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.rename(file)


def load(file: Path) -> Pool:
    """Pool in a file of `build`."""
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    packed = PackedScenes(*(arrays.pop(f"scenes.{field.name}") for field in fields(PackedScenes)))
    return Pool(packed, **arrays)
