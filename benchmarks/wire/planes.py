"""`python -m benchmarks.wire.planes`: what DeepStack planes of Qwen3-VL cost in bytes, and what it costs to send less.

Random images are encoded and pruned, and the first token's distribution is computed by the LLM service's model with the
features in float32 and the planes in each wire format, and without planes. Compared is the distribution with planes in
float32. Two checkpoints of random weights: a tiny one, and one in the shapes of Qwen3-VL-2B, whose weights are drawn on
the device. Random weights say how a difference travels through layers of these shapes, and not what a trained model
reads from its planes.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from benchmarks.checkpoints import full_size
from benchmarks.checkpoints.random_weights import draw_all_weights
from benchmarks.checkpoints.tiny import qwen3_vl
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.speed.encoder_requests import encoded_media, images, new_engine
from encoder_service import models as encoder_models
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.request_media import EncodeRequest
from encoder_service.engine.wire_values import is_float32
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from fovea.budget import Budget
from fovea.wire import tensors
from fovea.wire.formats import WIRE_FORMATS
from llm_service.models import load_model
from llm_service.models.base import VisionLanguageModel
from llm_service.prompts import Prompt, VisualTokens

__all__ = ["FORMATS", "main"]

FORMATS: Final = ("float32", "float16", "int8", "int4", "entropy", "none")
"""Wire formats of the planes; none for no planes."""

_PRUNER: Final = "fovea"
_IMAGE_SIZE: Final = (640, 480)
_FULL_SIZE: Final = "qwen3-vl-2b"
_NO_LIMIT: Final = 2**40
_HEADER: Final = ("planes", "bytes of planes", "bits a value", "largest difference", "KL, nats", "same token, %")


@dataclasses.dataclass(frozen=True)
class _Models:
    encoder: EncoderModel
    llm: VisionLanguageModel


def _load(shapes: str, folder: Path) -> _Models:
    """Both models of a checkpoint with random weights, on the CPU in float32."""
    if shapes == "tiny":
        parts = {service: qwen3_vl.write(folder / service) for service in ("encoder", "llm")}
    else:
        parts = {service: folder / service for service in ("encoder", "llm")}
        for service, part in parts.items():
            full_size.write(part, _FULL_SIZE, service)
    encoder = encoder_models.load(str(parts["encoder"]), LoadOptions(device="cpu", dtype="float32"))
    llm = load_model(parts["llm"], device=torch.device("cpu"), dtype="float32", attn_implementation="sdpa")
    if shapes == "full":
        draw_all_weights(encoder)
        draw_all_weights(llm)
    return _Models(encoder, llm)


def _encode(encoder: EncoderModel, count: int, keep_ratio: float) -> list[EncodedMedia]:
    engine = new_engine(encoder, 0, max_batch_size=1)
    pruner, budget = PRUNERS[_PRUNER].bind({}), Budget.ratio(keep_ratio)
    requests = [EncodeRequest((file,), (), pruner, budget) for file in images(count, _IMAGE_SIZE)]
    return [media for request in requests for media in encoded_media(engine.run([engine.prepare(request)]))]


@torch.inference_mode()
def _log_probabilities(llm: VisionLanguageModel, image: EncodedMedia, planes: Sequence[Any]) -> Tensor:
    """[V] log-probabilities of the first token after a short prompt with the image."""
    layout = image.layout
    tokens = VisualTokens(
        image.features.copy(), image.positions, (1, layout.rows, layout.columns), planes=tuple(planes)
    )
    text_ids = [i for i in range(24) if i not in llm.visual_token_ids]
    ids = [*text_ids[:8], llm.image_token_id, *text_ids[8:]]
    inputs = llm.embed(Prompt(np.array(ids), (tokens,)))
    output = llm.causal_lm(
        inputs_embeds=inputs.inputs_embeds[None],
        position_ids=inputs.position_ids[:, None],
        planes=None if inputs.planes is None else inputs.planes[:, None],
        use_cache=False,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[0, -1].double()
    return logits.log_softmax(dim=-1)


def _measure(models: _Models, count: int, keep_ratio: float) -> dict[str, Any]:
    """Bytes and differences of each format of the planes."""
    encoded = _encode(models.encoder, count, keep_ratio)
    rows: dict[str, dict[str, list[float]]] = {
        name: {"plane_bytes": [], "bits": [], "difference": [], "kl": [], "same": []} for name in FORMATS
    }
    for number, image in enumerate(encoded):
        planes = [plane for plane in image.planes if is_float32(plane)]
        reference = _log_probabilities(models.llm, image, [plane.copy() for plane in planes])
        for name in FORMATS:
            sent, read = _sent(planes, name)
            found = _log_probabilities(models.llm, image, read)
            row = rows[name]
            row["plane_bytes"].append(sent)
            row["bits"].append(8 * sent / sum(plane.size for plane in planes))
            row["difference"].append(float((found - reference).abs().max()))
            row["kl"].append(float((reference.exp() * (reference - found)).sum()))
            row["same"].append(float(found.argmax() == reference.argmax()))
        print(f"image {number + 1} of {count}", file=sys.stderr, flush=True)
    return {
        "tokens": [len(image.positions) for image in encoded],
        "tokens_unpruned": [image.num_tokens_total for image in encoded],
        "channels": models.encoder.hidden_size,
        "planes": models.encoder.num_planes,
        "formats": {name: {key: float(np.mean(values)) for key, values in row.items()} for name, row in rows.items()},
    }


def _sent(planes: Sequence[tensors.Float32Array], name: str) -> tuple[int, list[tensors.Float32Array]]:
    """Bytes of the planes in a wire format, and the planes as they are read."""
    if name == "none":
        return 0, [np.zeros_like(plane) for plane in planes]
    messages = [tensors.to_message(plane, WIRE_FORMATS[name].dtype) for plane in planes]
    return (
        sum(len(message.data) for message in messages),
        [tensors.from_message(message, max_bytes=_NO_LIMIT) for message in messages],
    )


def _markdown(result: dict[str, Any]) -> str:
    sections = []
    for shapes, found in result["shapes"].items():
        rows = [
            [
                name,
                f"{row['plane_bytes']:,.0f}",
                f"{row['bits']:.1f}",
                f"{row['difference']:.2g}",
                f"{row['kl']:.2g}",
                f"{100 * row['same']:.0f}",
            ]
            for name, row in found["formats"].items()
        ]
        title = "Tiny shapes" if shapes == "tiny" else "Shapes of Qwen3-VL-2B"
        sections.append(
            f"## {title}\n\n{len(found['tokens'])} images, {np.mean(found['tokens']):.0f} of"
            f" {np.mean(found['tokens_unpruned']):.0f} tokens (`{_PRUNER}`), {found['channels']:,} channels,"
            f" {found['planes']} planes.\n\n{table(_HEADER, rows, num_labels=1)}"
        )
    text = "\n\n".join(sections)
    return (
        f"# DeepStack planes on the wire\n\n{origin(result, packages=['torch', 'transformers'])} Random weights. Means"
        " over the images. *Difference* is the largest of a log-probability of the first token, *KL* the divergence"
        f" from the distribution with planes in float32; features are in float32 for both.\n\n{text}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the tables, and writes them into --out."""
    parser = command_parser("benchmarks.wire.planes", __doc__)
    parser.add_argument("--shapes", nargs="+", choices=("tiny", "full"), default=["tiny", "full"])
    parser.add_argument("--images", type=positive, default=64, help="images of the tiny shapes")
    parser.add_argument("--full-images", type=positive, default=4, help="images of the full shapes")
    parser.add_argument("--keep-ratio", type=float, default=0.222, help="share of the tokens that is kept")
    add_output(parser, shapes=["tiny"], images=2)
    args: argparse.Namespace = parser.parse_args(argv)
    logging.disable_progress_bar()
    counts = {"tiny": args.images, "full": args.full_images}
    found: dict[str, Any] = {}
    for shapes in args.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            torch.manual_seed(0)
            found[shapes] = _measure(_load(shapes, Path(scratch)), counts[shapes], args.keep_ratio)
    result = {"provenance": provenance("benchmarks.wire.planes"), "keep_ratio": args.keep_ratio, "shapes": found}
    publish(args.out, "wire_planes", result, _markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
