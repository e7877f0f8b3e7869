"""`python -m benchmarks.wire`: bytes on the narrow link x accuracy x time, for every wire dtype, beside sending a JPEG.

All points answer the same fresh questions of the small world, so differences are paired; intervals (95 %) resample
whole pictures. Bytes are those of the serialized VisualTokens message; of a JPEG, those of the file, which the unpruned
model then reads. Times are of one core, for one picture: tokens to bytes and back. Writes NAME.json, NAME.md and
NAME.png into --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.accuracy.evaluation import with_pictures
from benchmarks.accuracy.system import ImageQuestion, InProcessSystem, Method
from benchmarks.harness.intervals import Floats, clustered_mean
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.wire.tradeoff_report import markdown, plot
from encoder_service.assembly import EncodedMedia
from encoder_service.pruners import PRUNERS
from encoder_service.wire_budget import most_tokens, widest
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.v1 import tensor_pb2
from fovea.wire import basis_file, tensors
from fovea.wire.basis import WireBasis
from lab.questions import Question, evaluation_questions, score

__all__ = ["main"]

SPLITS: Final = ("easy", "crowded")
_FINGERPRINT: Final = "0" * 16  # as long as one is
_ANY: Final = "any"  # budgets of bytes: the service chooses the dtype
_NO_LIMIT: Final = 2**40


@dataclass(frozen=True)
class Sent:
    """One picture's tokens after the wire.

    Attributes:
        tokens: As the LLM service reads them.
        dtype: That they travelled in.
        num_bytes: Of the message.
        bits: Of `Tensor.data` for each value.
        encode_ms, decode_ms: Tokens to bytes, bytes to tokens.
    """

    tokens: EncodedMedia
    dtype: str
    num_bytes: int
    bits: float
    encode_ms: float
    decode_ms: float


def _message(
    picture: EncodedMedia, dtype: tensor_pb2.DType, basis: WireBasis | None, step: int | None = None
) -> tensor_pb2.VisualTokens:
    return tensor_pb2.VisualTokens(
        features=tensors.to_message(picture.features, dtype, basis=basis, step=step),
        positions=picture.positions.tolist(),
        grid=tensor_pb2.Grid(frames=1, rows=picture.layout.rows, columns=picture.layout.columns),
        fingerprint=_FINGERPRINT,
    )


def send(
    picture: EncodedMedia, write: Callable[[EncodedMedia], tensor_pb2.VisualTokens], basis: WireBasis | None
) -> Sent:
    """Through the codec and back."""
    start = time.perf_counter()
    message = write(picture)
    data = message.SerializeToString()
    sent = time.perf_counter()
    arrived = tensor_pb2.VisualTokens.FromString(data).features
    features = tensors.from_message(arrived, max_bytes=_NO_LIMIT, basis=basis)
    end = time.perf_counter()
    return Sent(
        dataclasses.replace(picture, features=features),
        tensors.dtype_name(message.features.dtype),
        len(data),
        8 * len(message.features.data) / picture.features.size,
        1000 * (sent - start),
        1000 * (end - sent),
    )


def jpeg(question: Question, quality: int) -> bytes:
    """The question's picture as a JPEG file, with Pillow's other settings (4:2:0)."""
    file = io.BytesIO()
    question.image.convert("RGB").save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


class WireSplit:
    """The questions of one split, and their scores under each way of sending.

    Args:
        system: Answers.
        name: Of the split.
        seed: Of its pictures.
        scenes: How many.
        basis: Of the model.
    """

    def __init__(self, system: InProcessSystem, name: str, seed: int, scenes: int, basis: WireBasis) -> None:
        self._system, self._name, self._basis = system, name, basis
        self.questions = evaluation_questions(name, seed, scenes)  # type: ignore[arg-type]  # one of SPLITS
        self.asked = with_pictures(self.questions)
        self._clusters = np.array([question.scene.seed for question in self.questions])
        self._unpruned: Floats | None = None

    def scores(self, label: str, asked: Sequence[ImageQuestion], pictures: Sequence[EncodedVisual]) -> Floats:
        """Of the answers to what arrived."""
        start = time.perf_counter()
        texts = [answer.text for answer in self._system.decode(asked, pictures, None)]
        got = np.array([score(question, text) for question, text in zip(self.questions, texts, strict=True)])
        took = time.perf_counter() - start
        print(f"{self._name:<8} {label:<28} {100 * got.mean():5.1f} %  ({took:.0f} s)", file=sys.stderr, flush=True)
        return got

    def unpruned(self) -> Floats:
        """Scores of the model that gets all tokens of the PNG, as float32."""
        if self._unpruned is None:
            pictures = self._system.encode(self.asked, Method("none"))
            self._unpruned = self.scores("unpruned", self.asked, pictures)
        return self._unpruned

    def row(self, scores: Floats, same_tokens: Floats | None, **facts: Any) -> dict[str, Any]:
        """A row of the table: score and paired differences, and what it took."""
        row: dict[str, Any] = {**facts, "score": self._interval(scores)}
        row["minus_unpruned"] = self._interval(scores - self.unpruned())
        row["minus_float32"] = None if same_tokens is None else self._interval(scores - same_tokens)
        return row

    def _interval(self, values: Floats) -> dict[str, float]:
        return clustered_mean(values, self._clusters).summary()

    def tokens(self, pruner: str, keep: Fraction, dtypes: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of one budget of tokens in each dtype."""
        method = Method("none") if keep == 1 else Method(pruner, float(keep))
        pictures = self._system.encode(self.asked, method)
        label = f"{method.pruner} {keep}"
        base = self.unpruned() if keep == 1 else self.scores(f"{label} float32", self.asked, pictures)
        rows = []
        for name in dtypes:
            dtype = tensors.parse_dtype(name)
            write = partial(_message, dtype=dtype, basis=self._basis)
            sent = [send(picture, write, self._basis) for picture in pictures]
            is_base = name == "float32"
            got = base if is_base else self.scores(f"{label} {name}", self.asked, [one.tokens for one in sent])
            rows.append(self.row(got, base, way="tokens", keep=str(keep), pruner=method.pruner, **_cost(sent)))
        return rows

    def budget(self, pruner: str, max_bytes: int, rule: str) -> dict[str, Any]:
        """The row of a budget of bytes, of which `rule` names the only dtype; "any": the service chooses."""
        dtype = tensor_pb2.DTYPE_UNSPECIFIED if rule == _ANY else tensors.parse_dtype(rule)
        most = most_tokens(
            max_bytes,
            visuals=1,
            channels=self._system.visual_hidden_size,
            fingerprint=_FINGERPRINT,
            grid=self._system.grid,
            wire_dtype=dtype,
            basis=self._basis,
        )
        pictures = self._system.encode(self.asked, Method(pruner, 1.0, most_tokens=most))

        def write(picture: EncodedMedia) -> tensor_pb2.VisualTokens:
            def written(dtype: tensor_pb2.DType, step: int | None) -> list[tensor_pb2.VisualTokens]:
                return [_message(picture, dtype, self._basis, step)]

            return widest(written, [picture.features], max_bytes, dtype, self._basis)[0]

        sent = [send(picture, write, self._basis) for picture in pictures]
        got = self.scores(f"{pruner} {max_bytes} bytes {rule}", self.asked, [one.tokens for one in sent])
        return self.row(got, None, way="budget", keep=f"{max_bytes} B", rule=rule, pruner=pruner, **_cost(sent))

    def jpeg(self, quality: int) -> dict[str, Any]:
        """The row of sending the picture itself to the unpruned model."""
        asked = with_pictures(self.questions, lambda question: jpeg(question, quality))
        got = self.scores(f"JPEG {quality}", asked, self._system.encode(asked, Method("none")))
        mean = float(np.mean([len(one.picture) for one in asked]))
        return self.row(got, None, way="jpeg", keep=f"q{quality}", pruner="none", dtype="JPEG", num_bytes=mean)


def _cost(sent: Sequence[Sent]) -> dict[str, Any]:
    dtypes = sorted({one.dtype for one in sent})
    return {
        "dtype": " ".join(dtypes),
        "num_tokens": float(np.mean([len(one.tokens.positions) for one in sent])),
        "num_bytes": float(np.mean([one.num_bytes for one in sent])),
        "bits": float(np.mean([one.bits for one in sent])),
        "encode_ms": float(np.median([one.encode_ms for one in sent])),
        "decode_ms": float(np.median([one.decode_ms for one in sent])),
    }


def _measure(system: InProcessSystem, name: str, args: argparse.Namespace, basis: WireBasis) -> dict[str, Any]:
    split = WireSplit(system, name, args.seed, args.scenes, basis)
    # Where everything is kept the pruner has no say.
    points = [(keep, pruner) for keep in args.keep for pruner in (args.pruners[:1] if keep == 1 else args.pruners)]
    rows = [row for keep, pruner in points for row in split.tokens(pruner, keep, args.dtypes)]
    rows += [split.budget(args.pruners[0], max_bytes, rule) for rule in args.rules for max_bytes in args.max_wire_bytes]
    rows += [split.jpeg(quality) for quality in args.jpeg]
    return {"pictures": args.scenes, "questions": len(split.questions), "rows": rows}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument(
        "--pruners",
        nargs="+",
        default=["fovea", "desap"],
        choices=list(PRUNERS),
        metavar="NAME",
        help="the first of them also where a budget is of bytes",
    )
    parser.add_argument("--keep", nargs="*", type=Fraction, default=[Fraction(1, i) for i in (1, 2, 3, 9)])
    parser.add_argument("--dtypes", nargs="*", default=list(tensors.DTYPES), choices=list(tensors.DTYPES))
    parser.add_argument("--max-wire-bytes", nargs="*", type=int, default=[500, 1000, 1500, 2000, 4000, 8000])
    parser.add_argument(
        "--rules",
        nargs="+",
        default=[_ANY],
        choices=[_ANY, *tensors.DTYPES],
        help="what a budget of bytes is spent on: the service's own rule, or as many tokens as fit in one dtype",
    )
    parser.add_argument("--jpeg", nargs="*", type=int, default=[10, 25, 50, 75, 90, 95], metavar="QUALITY")
    parser.add_argument("--seed", type=int, default=1, help="of the evaluation pictures (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=260, help="pictures a split (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--name", default="wire", help="of the result files (default: %(default)s)")
    add_output(
        parser,
        scenes=1,
        splits=["easy"],
        keep=[Fraction(1, 9)],
        dtypes=["float32", "entropy"],
        max_wire_bytes=[1000],
        jpeg=[50],
        pruners=["desap"],
        rules=[_ANY],
    )
    args = parser.parse_args(argv)
    if not all(0 < keep <= 1 for keep in args.keep):
        parser.error("--keep: a share is above 0 and at most 1")
    if not all(1 <= quality <= 95 for quality in args.jpeg):
        parser.error("--jpeg: a quality is 1 to 95")
    if args.scenes < 1 or not all(size >= 1 for size in args.max_wire_bytes):
        parser.error("--scenes, --max-wire-bytes: at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it and a plot where --out says."""
    args = _arguments(argv)
    llava = shipped_checkpoint("llava")
    basis = basis_file.load(llava / basis_file.FILE)
    system = InProcessSystem(llava, shipped_checkpoint("clip"))
    try:
        splits = {name: _measure(system, name, args, basis) for name in args.splits}
    finally:
        system.close()
    result = {"provenance": provenance("benchmarks.wire"), "seed": args.seed, "splits": splits}
    publish(args.out, args.name, result, markdown(result), partial(plot, result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
