"""`python -m benchmarks.task_map`: does a map point at what is asked? Top-k precision on fresh crowded pictures.

For each question that names an object: the share of the map's k best patches that lie on it. Chance is the share of
the picture that the object covers; the best reachable value is below 1 where it covers fewer than k patches.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.intervals import Interval, clustered_mean
from benchmarks.provenance import provenance
from encoder_service import models
from encoder_service.models.base import LoadOptions
from encoder_service.pruners.base import TextFeatures, View, VisionFeatures
from encoder_service.pruners.desap import DesapParameters, task_map
from fovea.stack import shipped_checkpoint
from gateway.tokenizers import TextTowerTokenizer
from lab.questions import Question, evaluation_questions
from lab.render import patch_owners
from lab.scenes import COLORS, SHAPES, Thing

__all__ = ["main"]

# Every way to read the question off the last layer that `desap` offers, and saliency, which does not read it.
READINGS: Final = {
    "decoupled, FCMA shifted (default)": DesapParameters(),
    "decoupled, FCMA as printed": DesapParameters(fcma_cosines="signed"),
    "decoupled, FCMA clamped at 0": DesapParameters(fcma_cosines="signed", fcma_clamp_min=0.0),
    "decoupled, mean over words": DesapParameters(fcma=False),
    "vanilla, FCMA shifted": DesapParameters(similarity="vanilla"),
    "vanilla, FCMA as printed": DesapParameters(similarity="vanilla", fcma_cosines="signed"),
    "vanilla, mean over words": DesapParameters(similarity="vanilla", fcma=False),
    "q-k, FCMA shifted": DesapParameters(attn_variant="qkv"),
    "k-k, FCMA shifted": DesapParameters(attn_variant="kkv"),
    "v-v, FCMA shifted": DesapParameters(attn_variant="vvv"),
}
GROUPS: Final = ("color", "shape", "existence", "count", "side", "reading")
_VIEWS: Final = frozenset(
    {View.JOINT_QQV, View.JOINT_QKV, View.JOINT_KKV, View.JOINT_VVV, View.JOINT_VANILLA, View.SALIENCY_LAST}
)


def _named(question: Question) -> list[int]:
    """Indices of the objects that fit all colour and shape words of the question; none if it names nothing there."""
    words = {word.strip("?.,") for word in question.text.lower().split()}
    words |= {word.removesuffix("es") for word in words} | {word.removesuffix("s") for word in words}
    colors, shapes = words & set(COLORS), words & set(SHAPES)

    def fits(thing: Thing) -> bool:
        return not thing.distractor and colors <= {thing.look} and shapes <= {thing.shape}

    return [i for i, thing in enumerate(question.scene.things) if (colors or shapes) and fits(thing)]


def _maps(vision: VisionFeatures, text: TextFeatures) -> Iterator[tuple[str, Tensor]]:
    yield "CLS attention", vision.views[View.SALIENCY_LAST]
    for name, params in READINGS.items():
        view = View.JOINT_VANILLA if params.similarity == "vanilla" else View(f"joint_{params.attn_variant}")
        yield name, task_map(vision.views[view], text, params)


def _table(rows: dict[str, dict[str, Interval]]) -> str:
    lines = ["| map | " + " | ".join(("all", *GROUPS)) + " |", "| --- |" + " ---: |" * (1 + len(GROUPS))]
    for name, cells in rows.items():
        means = " | ".join(f"{100 * cells[group].mean:.1f}" for group in GROUPS)
        lines.append(f"| {name} | {cells['all'].points()} | {means} |")
    return "\n".join(lines)


@torch.inference_mode()
def _measure(questions: Sequence[Question], k: int) -> dict[str, dict[str, Interval]]:
    clip = shipped_checkpoint("clip")
    encoder = models.load(str(shipped_checkpoint("llava")), LoadOptions(text_tower=str(clip)))
    tokenizer = TextTowerTokenizer(clip)
    seen: dict[int, VisionFeatures] = {}
    values: dict[str, list[float]] = defaultdict(list)
    groups, scenes = [], []
    for question in questions:
        objects = _named(question)
        if not objects:
            continue
        seed = question.scene.seed
        if seed not in seen:
            (visual,) = encoder.encode([encoder.preprocess(question.image)], _VIEWS)
            seen[seed] = visual.parts[0]
        (text,) = encoder.encode_texts([tokenizer.encode(question.text)])
        on_object = torch.from_numpy(np.isin(patch_owners(question.scene), objects))
        values["chance"].append(on_object.float().mean().item())
        values["best reachable"].append(min(1.0, on_object.sum().item() / k))
        for name, scores in _maps(seen[seed], text):
            values[name].append(on_object[scores.topk(k).indices].float().mean().item())
        joint = normalize(seen[seed].views[View.JOINT_QQV][1:], dim=-1)
        values["share of patches with alpha < 0"].append((joint @ text.eos[0] < 0).float().mean().item())
        groups.append(question.group)
        scenes.append(seed)
    print(f"{len(groups)} questions name something that is there", file=sys.stderr)
    clusters, labels = np.array(scenes), np.array(groups)
    return {
        name: {
            group: clustered_mean(np.array(got)[rows], clusters[rows])
            for group in ("all", *GROUPS)
            if (rows := np.ones(len(labels), bool) if group == "all" else labels == group).any()
        }
        for name, got in values.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table, writes `task_map.json` and `task_map.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task_map", description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="pictures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2, help="of the evaluation pictures (default: %(default)s)")
    parser.add_argument("--top", type=int, default=8, help="patches counted, k (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args(argv)
    rows = _measure(evaluation_questions("crowded", args.seed, args.scenes, groups=GROUPS), args.top)
    facts: dict[str, Any] = provenance("benchmarks.task_map")
    table = _table(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    summary = {name: {g: vars(cell) for g, cell in cells.items()} for name, cells in rows.items()}
    text = json.dumps({"provenance": facts, "top": args.top, "precision": summary}, indent=1)
    (args.out / "task_map.json").write_text(text + "\n", encoding="utf-8")
    head = (
        "# Does the map point at what is asked?\n\n"
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}. Share of the {args.top} best patches\n"
        "that lie on the object asked about, in per cent, with 95 % intervals; by group of questions.\n\n"
    )
    (args.out / "task_map.md").write_text(head + table + "\n", encoding="utf-8")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
