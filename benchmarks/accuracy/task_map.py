"""`python -m benchmarks.task_map`: whether a map points at the object asked about, for the four maps of figure 7.

Three figures for each map, over questions that name an object of their image:

* precision: the share of the map's k best patches that lie on the object. Chance is the share of the image that the
  object covers; the best reachable is below 1 where the object covers fewer than k patches;
* the area under the ROC curve over all patches (chance 0.5);
* the share of the k best patches in the lower third of the image, towards which the attention of language models drifts
  according to arXiv 2604.11240.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.accuracy.cross_attention import AttentionReader
from benchmarks.accuracy.task_map_report import BEST, CHANCE, DEFAULT, GROUPS, MapScores, report
from benchmarks.harness.arguments import add_seed, command_parser, positive
from benchmarks.harness.intervals import clustered_mean
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from encoder_service import models
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners.base import TextFeatures, TowerFeatures
from encoder_service.pruners.desap import DesapParameters, joint_output, question_vector, task_map
from encoder_service.pruners.tower_outputs import SALIENCY_LAST, OutputKind, TowerOutput
from fovea.checkpoints.shipped import shipped_checkpoint
from gateway.tokenization.tokenizers import TextTowerTokenizer
from lab.questions import Question, evaluation_questions
from lab.render import label_patches
from lab.scenes import COLORS, SHAPES, Thing
from llm_service.pruners.schedule import scaled_layers

__all__ = ["main", "named_things"]

SPLITS: Final = ("easy", "crowded")
# The ways in which `desap` can compute its task map, one switch at a time.
READINGS: Final = {
    "vanilla similarity": DesapParameters(similarity="vanilla"),
    DEFAULT: DesapParameters(),
    "decoupled, FCMA as printed": DesapParameters(fcma_cosines="signed"),
    "decoupled, FCMA clamped at 0": DesapParameters(fcma_cosines="signed", fcma_clamp_min=0.0),
    "decoupled, FCMA not normalised": DesapParameters(fcma_normalize=False),
    "decoupled, FCMA, lambda 0": DesapParameters(fcma_lambda=0.0),
    "decoupled, FCMA, lambda 10": DesapParameters(fcma_lambda=10.0),
    "decoupled, FCMA, lambda 100": DesapParameters(fcma_lambda=100.0),
    "decoupled, FCMA, lambda 1000": DesapParameters(fcma_lambda=1000.0),
    "decoupled, mean over words": DesapParameters(fcma=False),
    "vanilla, FCMA as printed": DesapParameters(similarity="vanilla", fcma_cosines="signed"),
    "vanilla, mean over words": DesapParameters(similarity="vanilla", fcma=False),
    "q-k, FCMA": DesapParameters(attn_variant="qkv"),
    "k-k, FCMA": DesapParameters(attn_variant="kkv"),
    "v-v, FCMA": DesapParameters(attn_variant="vvv"),
    "layer before the last, FCMA": DesapParameters(decouple_layer=-2),
    "decoupled, FCMA, without BOS": DesapParameters(text_rows="without_bos"),
    "decoupled, FCMA, without EOS": DesapParameters(text_rows="without_eos"),
    "decoupled, FCMA, words alone": DesapParameters(text_rows="words"),
    "decoupled, FCMA, words that EOS attends to": DesapParameters(text_filter="eot_attention"),
}
_OUTPUTS: Final = frozenset(
    {
        TowerOutput(OutputKind.JOINT, qkv="qqv"),
        TowerOutput(OutputKind.JOINT),
        SALIENCY_LAST,
        *map(joint_output, READINGS.values()),
    }
)


def named_things(question: Question) -> list[int]:
    """Indices of the objects that fit all colour and shape words of the question; none where it names none."""
    words = {word.strip("?.,") for word in question.text.lower().split()}
    words |= {word.removesuffix("es") for word in words} | {word.removesuffix("s") for word in words}
    colors, shapes = words & set(COLORS), words & set(SHAPES)

    def fits(thing: Thing) -> bool:
        return not thing.distractor and colors <= {thing.look} and shapes <= {thing.shape}

    return [i for i, thing in enumerate(question.scene.things) if (colors or shapes) and fits(thing)]


def _maps(vision: TowerFeatures, text: TextFeatures, attention: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    (early,) = scaled_layers([2], len(attention))
    yield "CLS attention", vision.outputs[SALIENCY_LAST]
    yield f"cross-attention, layer {early} of {len(attention)}", attention[early]
    for name, params in READINGS.items():
        yield name, task_map(vision.outputs[joint_output(params)], text, params)
    query = normalize(question_vector(text.eos), dim=-1)
    for name, output in (
        ("decoupled", TowerOutput(OutputKind.JOINT, qkv="qqv")),
        ("vanilla", TowerOutput(OutputKind.JOINT)),
    ):
        yield f"{name}, EOS alone", normalize(vision.outputs[output][1:], dim=-1) @ query
    for layer, scores in enumerate(attention):
        if layer != early:
            yield f"cross-attention, layer {layer} of {len(attention)}", scores


def _auc(scores: Tensor, on_object: Tensor) -> float:
    """Probability that a patch on the object scores above one beside it; equal scores count half."""
    above = scores[on_object][:, None] - scores[~on_object][None]
    return ((above > 0).double() + 0.5 * (above == 0).double()).mean().item()


@dataclass
class _Values:
    """Values of one map, one for each question."""

    precision: list[float] = field(default_factory=list)
    auc: list[float] = field(default_factory=list)
    lower_third: list[float] = field(default_factory=list)


class _Split:
    """Values of all maps on one split.

    Args:
        k: Number of best patches counted.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._values: dict[str, _Values] = defaultdict(_Values)
        self._groups: list[str] = []
        self._scenes: list[int] = []

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, question: Question, on_object: Tensor, maps: Iterator[tuple[str, Tensor]]) -> None:
        """Adds a question: [N] whether each patch lies on the object asked about, and the maps [N] by name."""
        self._groups.append(question.group)
        self._scenes.append(question.scene.seed)
        self._values[CHANCE].precision.append(on_object.float().mean().item())
        self._values[BEST].precision.append(min(1.0, on_object.sum().item() / self._k))
        lower = torch.arange(len(on_object)) >= len(on_object) * 2 // 3
        for name, scores in maps:
            best = scores.topk(self._k).indices
            values = self._values[name]
            values.precision.append(on_object[best].float().mean().item())
            values.auc.append(_auc(scores, on_object))
            values.lower_third.append(lower[best].float().mean().item())

    def rows(self) -> dict[str, MapScores]:
        """Means with intervals, by map."""
        clusters, labels = np.array(self._scenes), np.array(self._groups)
        default = np.array(self._values[DEFAULT].precision)
        scores = {}
        for name, values in self._values.items():
            precision = np.array(values.precision)
            groups = {"all": np.ones(len(labels), bool)} | {group: labels == group for group in GROUPS}
            scores[name] = MapScores(
                precision={
                    group: clustered_mean(precision[rows], clusters[rows])
                    for group, rows in groups.items()
                    if rows.any()
                },
                difference=clustered_mean(precision - default, clusters) if values.auc else None,
                auc=clustered_mean(np.array(values.auc), clusters) if values.auc else None,
                lower_third=clustered_mean(np.array(values.lower_third), clusters) if values.auc else None,
            )
        return scores


@torch.inference_mode()
def _measure(
    encoder: EncoderModel, reader: AttentionReader, texts: TextTowerTokenizer, questions: Sequence[Question], k: int
) -> dict[str, MapScores]:
    values, seen = _Split(k), dict[int, TowerFeatures]()
    for question in questions:
        objects = named_things(question)
        if not objects:
            continue
        seed = question.scene.seed
        if seed not in seen:
            (media,) = encoder.encode([encoder.media.image(question.image)], _OUTPUTS)
            seen = {seed: media.batch.at(media.rows[0])}
        text = encoder.encode_texts([texts.encode(question.text)], eos_attention=True).take(torch.tensor(0))
        on_object = torch.from_numpy(np.isin(label_patches(question.scene), objects))
        if on_object.any():
            values.add(question, on_object, _maps(seen[seed], text, reader.read(seen[seed], question.text)))
    print(f"{len(values)} questions name an object of their image", file=sys.stderr)
    return values.rows()


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.task_map", __doc__)
    parser.add_argument("--scenes", type=positive, default=60, help="images of each split (default: %(default)s)")
    add_seed(parser, 2, "the evaluation images")
    parser.add_argument("--top", type=positive, default=8, help="best patches counted, k (default: %(default)s)")
    add_output(parser, scenes=1)
    args = parser.parse_args(argv)
    llava, clip = shipped_checkpoint("llava"), shipped_checkpoint("clip")
    encoder, texts = models.load(str(llava), LoadOptions(text_tower=str(clip))), TextTowerTokenizer(clip)
    with AttentionReader(llava) as reader:
        splits: dict[str, dict[str, MapScores]] = {
            split: _measure(
                encoder, reader, texts, evaluation_questions(split, args.seed, args.scenes, groups=GROUPS), args.top
            )
            for split in SPLITS
        }
    summary = {split: {name: row.to_json() for name, row in rows.items()} for split, rows in splits.items()}
    result = {"provenance": provenance("benchmarks.task_map"), "top": args.top, "splits": summary}
    publish(args.out, "task_map", result, report(result, splits) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
