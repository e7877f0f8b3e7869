"""`python -m benchmarks.wire`: bytes on the narrow link, accuracy and time for every wire format, and for a JPEG.

All rows are measured on the same questions of the small world, so differences are paired. The 95 % intervals resample
whole images. Bytes are those of the serialized VisualTokens message, or of a JPEG file that the unpruned model reads.
Times are for one image on one core, from visual tokens to bytes and back. Writes NAME.json, NAME.md and NAME.png into
--out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Final

import numpy as np

from benchmarks.accuracy.evaluation import with_images
from benchmarks.accuracy.system import ImageQuestion, InProcessSystem, Method
from benchmarks.harness.arguments import add_seed, command_parser, count, positive, share
from benchmarks.harness.images import jpeg
from benchmarks.harness.intervals import Floats, clustered_mean
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import provenance
from benchmarks.wire.tradeoff_report import markdown, plot
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.pruners import PRUNERS
from encoder_service.server.wire_budget import fit_messages, max_tokens_for_bytes
from fovea.checkpoints.shipped import shipped_checkpoint
from fovea.v1 import tensor_pb2
from fovea.wire import basis_file, tensors
from fovea.wire.basis import WireBasis
from fovea.wire.formats import WIRE_FORMATS, dtype_name
from lab.questions import evaluation_questions, score

__all__ = ["main"]

SPLITS: Final = ("easy", "crowded")
_FINGERPRINT: Final = "0" * 16  # of the usual length
_ANY: Final = "any"  # rule of a budget of bytes: the service chooses the wire format
_NO_LIMIT: Final = 2**40


@dataclass(frozen=True)
class Sent:
    """Visual tokens of one image as decoded from their message, with the cost of the message.

    Attributes:
        tokens: Visual tokens, as the LLM service reads them.
        dtype: Wire format of the message.
        num_bytes: Size of the message.
        bits: Bits of `Tensor.data` a value.
        encode_ms: Time from visual tokens to bytes.
        decode_ms: Time from bytes to visual tokens.
    """

    tokens: EncodedMedia
    dtype: str
    num_bytes: int
    bits: float
    encode_ms: float
    decode_ms: float


def _message(
    image: EncodedMedia, dtype: tensor_pb2.DType, basis: WireBasis | None, step: int | None = None
) -> tensor_pb2.VisualTokens:
    return tensor_pb2.VisualTokens(
        features=tensors.to_message(image.features, dtype, basis=basis, step=step),
        positions=image.positions.tolist(),
        grid=tensor_pb2.Grid(frames=1, rows=image.layout.rows, columns=image.layout.columns),
        fingerprint=_FINGERPRINT,
    )


def send(
    image: EncodedMedia, write: Callable[[EncodedMedia], tensor_pb2.VisualTokens], basis: WireBasis | None
) -> Sent:
    """Encodes the visual tokens of an image with `write`, and decodes the message."""
    start = time.perf_counter()
    message = write(image)
    data = message.SerializeToString()
    encoded = time.perf_counter()
    features_message = tensor_pb2.VisualTokens.FromString(data).features
    features = tensors.from_message(features_message, max_bytes=_NO_LIMIT, basis=basis)
    end = time.perf_counter()
    return Sent(
        dataclasses.replace(image, values=features),
        dtype_name(message.features.dtype),
        len(data),
        8 * len(message.features.data) / image.features.size,
        1000 * (encoded - start),
        1000 * (end - encoded),
    )


class WireSplit:
    """The questions of one split, and their scores for each wire format.

    Args:
        system: System that answers.
        name: Name of the split.
        seed: Seed of the images.
        scenes: Number of images.
        basis: Basis of the model.
    """

    def __init__(self, system: InProcessSystem, name: str, seed: int, scenes: int, basis: WireBasis) -> None:
        self._system, self._name, self._basis = system, name, basis
        self.questions = evaluation_questions(name, seed, scenes)  # type: ignore[arg-type]  # one of SPLITS
        self.asked = with_images(self.questions)
        self._clusters = np.array([question.scene.seed for question in self.questions])
        self._unpruned: Floats | None = None

    def scores(self, label: str, asked: Sequence[ImageQuestion], encoded: Sequence[EncodedMedia]) -> Floats:
        """[Q] scores of the answers that are decoded from `encoded`."""
        start = time.perf_counter()
        texts = [answer.text for answer in self._system.decode(asked, encoded, None)]
        got = np.array([score(question, text) for question, text in zip(self.questions, texts, strict=True)])
        took = time.perf_counter() - start
        print(f"{self._name:<8} {label:<28} {100 * got.mean():5.1f} %  ({took:.0f} s)", file=sys.stderr, flush=True)
        return got

    def unpruned(self) -> Floats:
        """[Q] scores of the model with all visual tokens of the PNG file in float32."""
        if self._unpruned is None:
            encoded = self._system.encode(self.asked, Method("none"))
            self._unpruned = self.scores("unpruned", self.asked, encoded)
        return self._unpruned

    def row(self, scores: Floats, same_tokens: Floats | None, **facts: Any) -> dict[str, Any]:
        """A row of the table: score, paired differences, and `facts` such as the costs."""
        row: dict[str, Any] = {**facts, "score": self._interval(scores)}
        row["minus_unpruned"] = self._interval(scores - self.unpruned())
        row["minus_float32"] = None if same_tokens is None else self._interval(scores - same_tokens)
        return row

    def _interval(self, values: Floats) -> dict[str, float]:
        return clustered_mean(values, self._clusters).summary()

    def tokens(self, pruner: str, keep: Fraction, dtypes: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of one token budget, one for each wire format."""
        method = Method("none") if keep == 1 else Method(pruner, float(keep))
        encoded = self._system.encode(self.asked, method)
        label = f"{method.pruner} {keep}"
        base = self.unpruned() if keep == 1 else self.scores(f"{label} float32", self.asked, encoded)
        rows = []
        for name in dtypes:
            dtype = tensors.parse_dtype(name)
            write = partial(_message, dtype=dtype, basis=self._basis)
            sent = [send(image, write, self._basis) for image in encoded]
            is_base = name == "float32"
            got = base if is_base else self.scores(f"{label} {name}", self.asked, [image.tokens for image in sent])
            rows.append(self.row(got, base, way="tokens", keep=str(keep), pruner=method.pruner, **_cost(sent)))
        return rows

    def budget(self, pruner: str, max_bytes: int, rule: str) -> dict[str, Any]:
        """The row of a budget of bytes in the wire format that `rule` names; "any": the service chooses."""
        dtype = tensor_pb2.DTYPE_UNSPECIFIED if rule == _ANY else tensors.parse_dtype(rule)
        max_tokens = max_tokens_for_bytes(
            max_bytes,
            num_media=1,
            channels=self._system.visual_hidden_size,
            fingerprint=_FINGERPRINT,
            grid=self._system.grid,
            wire_dtype=dtype,
            basis=self._basis,
        )
        encoded = self._system.encode(self.asked, Method(pruner, 1.0, max_tokens=max_tokens))

        def write(image: EncodedMedia) -> tensor_pb2.VisualTokens:
            def messages(dtype: tensor_pb2.DType, step: int | None) -> list[tensor_pb2.VisualTokens]:
                return [_message(image, dtype, self._basis, step)]

            return fit_messages(messages, [image.features], max_bytes, dtype, self._basis)[0]

        sent = [send(image, write, self._basis) for image in encoded]
        got = self.scores(f"{pruner} {max_bytes} bytes {rule}", self.asked, [image.tokens for image in sent])
        return self.row(got, None, way="budget", keep=f"{max_bytes} B", rule=rule, pruner=pruner, **_cost(sent))

    def jpeg(self, quality: int) -> dict[str, Any]:
        """The row of JPEG files that are sent to the unpruned model."""
        asked = with_images(self.questions, lambda question: jpeg(question.image, quality, optimize=True))
        got = self.scores(f"JPEG {quality}", asked, self._system.encode(asked, Method("none")))
        mean = float(np.mean([len(question.image) for question in asked]))
        return self.row(got, None, way="jpeg", keep=f"q{quality}", pruner="none", dtype="JPEG", num_bytes=mean)


def _cost(sent: Sequence[Sent]) -> dict[str, Any]:
    dtypes = sorted({image.dtype for image in sent})
    return {
        "dtype": " ".join(dtypes),
        "num_tokens": float(np.mean([len(image.tokens.positions) for image in sent])),
        "num_bytes": float(np.mean([image.num_bytes for image in sent])),
        "bits": float(np.mean([image.bits for image in sent])),
        "encode_ms": float(np.median([image.encode_ms for image in sent])),
        "decode_ms": float(np.median([image.decode_ms for image in sent])),
    }


def _measure(system: InProcessSystem, name: str, args: argparse.Namespace, basis: WireBasis) -> dict[str, Any]:
    split = WireSplit(system, name, args.seed, args.scenes, basis)
    # With all tokens kept, all pruners give the same result.
    budgets = [(keep, pruner) for keep in args.keep for pruner in (args.pruners[:1] if keep == 1 else args.pruners)]
    rows = [row for keep, pruner in budgets for row in split.tokens(pruner, keep, args.dtypes)]
    rows += [split.budget(args.pruners[0], max_bytes, rule) for rule in args.rules for max_bytes in args.max_wire_bytes]
    rows += [split.jpeg(quality) for quality in args.jpeg]
    return {"images": args.scenes, "questions": len(split.questions), "rows": rows}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.wire", __doc__)
    parser.add_argument(
        "--pruners",
        nargs="+",
        default=["fovea", "desap"],
        choices=list(PRUNERS),
        metavar="NAME",
        help="pruners; the first of them also for budgets of bytes",
    )
    parser.add_argument("--keep", nargs="*", type=share, default=[Fraction(1, i) for i in (1, 2, 3, 9)])
    parser.add_argument("--dtypes", nargs="*", default=list(WIRE_FORMATS), choices=list(WIRE_FORMATS))
    parser.add_argument("--max-wire-bytes", nargs="*", type=positive, default=[500, 1000, 1500, 2000, 4000, 8000])
    parser.add_argument(
        "--rules",
        nargs="+",
        default=[_ANY],
        choices=[_ANY, *WIRE_FORMATS],
        help="wire format for a budget of bytes: the service's own choice, or as many tokens as fit in one format",
    )
    parser.add_argument("--jpeg", nargs="*", type=count(95), default=[10, 25, 50, 75, 90, 95], metavar="QUALITY")
    add_seed(parser, 1, "the evaluation images")
    parser.add_argument("--scenes", type=positive, default=260, help="images of each split (default: %(default)s)")
    parser.add_argument("--splits", nargs="+", default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--name", default="wire", help="name of the result files (default: %(default)s)")
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the table, and writes it and a plot into --out."""
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
