"""`python -m benchmarks.speed.jpeg_scale`: JPEG images decoded at a reduced scale (`--jpeg-reduced-scale on`).

For each family, kind of image and size: by how much the 8-bit pixels that the tower is given differ from those of the
image decoded at full size, and the time from the file to the tower input, both ways in turn in one process. For the
shipped model also how many answers change. Photographs are synthetic: noise with the spectrum of photographs, behind
shapes with sharp edges. Images of the small world are enlarged, in the middle of a grey image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from benchmarks.accuracy.evaluation import with_images
from benchmarks.accuracy.system import InProcessSystem, Method
from benchmarks.harness.arguments import add_seed, command_parser, positive
from benchmarks.harness.images import jpeg
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import Spread, table
from encoder_service.media.decoding import MediaDecoder
from encoder_service.models.anyres import TileCutter
from encoder_service.models.media import QwenMedia, SquareMedia, TiledMedia
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.models.qwen_pixels import QwenPixels
from fovea.checkpoints.shipped import shipped_checkpoint
from lab.questions import Question, evaluation_questions, score

__all__ = ["main"]

_SIZES: Final = ((640, 480), (1920, 1080))
_QUALITY: Final = 90
_GREY: Final = (128, 128, 128)
_LIMITS: Final = (2**26, 50_000_000)
_SIDE: Final = 336
_CANVASES: Final = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def photograph(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """An image with the statistics of a photograph: power falls with the square of the frequency; edges are sharp."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1
    light, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) / frequency, (height, width)) for _ in range(4)
    )
    channels = [light / light.std() + 0.3 * colour / colour.std() for colour in colours]
    image = Image.fromarray(np.clip(np.stack(channels, axis=2) * 45 + 120, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = rng.uniform(0, width), rng.uniform(0, height)
        box = (left, top, left + rng.uniform(0.02, 0.3) * width, top + rng.uniform(0.02, 0.3) * height)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return image


def small_world(question: Question, size: tuple[int, int]) -> bytes:
    """A file with the image of a question, enlarged, in the middle of a grey image."""
    side = min(size)
    canvas = Image.new("RGB", size, _GREY)
    enlarged = question.image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    canvas.paste(enlarged, ((size[0] - side) // 2, (size[1] - side) // 2))
    return jpeg(canvas, _QUALITY)


def _families(folder: Path) -> dict[str, Any]:
    """Media processors that decode at full size, by name."""
    square = {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}}
    clip, tiles, qwen = (folder / name for name in ("clip", "tiles", "qwen"))
    CLIPImageProcessorPil(**square).save_pretrained(clip)
    LlavaNextImageProcessorPil(**square, image_grid_pinpoints=_CANVASES).save_pretrained(tiles)
    Qwen2VLImageProcessorPil().save_pretrained(qwen)
    vision = SimpleNamespace(spatial_merge_size=2, patch_size=14, temporal_patch_size=2)
    return {
        "shipped (144)": SquareMedia(ImageProcessor(shipped_checkpoint("llava"), 144), (9, 9)),
        "llava (336)": SquareMedia(ImageProcessor(clip, _SIDE), (24, 24)),
        "llava_next (336)": TiledMedia(TileCutter(tiles, _CANVASES, _SIDE), (24, 24)),
        "qwen2_5_vl": QwenMedia(QwenPixels(qwen, vision), 2),
    }


def _seconds(decode: MediaDecoder, file: bytes) -> float:
    start = time.perf_counter()
    decode(file)
    return time.perf_counter() - start


def _compare(media: Any, files: Sequence[bytes], size: tuple[int, int], rounds: int) -> dict[str, Any]:
    whole, reduced = (MediaDecoder(replace(media, reduces_jpeg=on), *_LIMITS) for on in (False, True))
    differences = [np.abs(reduced(file).pixels.astype(np.int16) - whole(file).pixels) for file in files]
    runs = []
    for _ in range(rounds):
        run = [(_seconds(whole, file), _seconds(reduced, file)) for file in files]
        runs.append(np.array(run).mean(axis=0))
    needed = media.needed_size(size)
    scale = max(s for s in (1, 2, 4, 8) if all(n * s <= f for n, f in zip(needed, size, strict=True)) or s == 1)
    return {
        "scale": scale,
        "mean": round(float(np.mean([difference.mean() for difference in differences])), 3),
        "largest": int(max(difference.max() for difference in differences)),
        "full_ms": Spread.of([1000 * full for full, _ in runs]).summary(),
        "reduced_ms": Spread.of([1000 * less for _, less in runs]).summary(),
        "ratio": Spread.of([less / full for full, less in runs]).summary(),
    }


def _answers(seed: int, scenes: int, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Answers of the shipped model about the same files, decoded both ways."""
    questions = evaluation_questions("easy", seed, scenes)
    models = shipped_checkpoint("llava"), shipped_checkpoint("clip")
    systems = [InProcessSystem(*models, reduces_jpeg=on) for on in (False, True)]
    results = []
    try:
        for size in sizes:
            asked = with_images(questions, partial(small_world, size=size))
            full, reduced = (system.answers(asked, Method("desap", keep_ratio=1 / 9)) for system in systems)
            pairs = list(zip(questions, full, reduced, strict=True))
            results.append(
                {
                    "size": list(size),
                    "questions": len(questions),
                    "changed": sum(one != other for _, one, other in pairs),
                    "full_score": round(float(np.mean([score(question, one) for question, one, _ in pairs])), 4),
                    "reduced_score": round(float(np.mean([score(question, other) for question, _, other in pairs])), 4),
                }
            )
    finally:
        for system in systems:
            system.close()
    return results


def markdown(result: dict[str, Any]) -> str:
    """The report of a result."""
    rows = [
        (
            *(row["family"], row["images"], "x".join(map(str, row["size"])), f"1/{row['scale']}"),
            *(f"{row['mean']:.2f}", str(row["largest"])),
            *(f"{row[name]['median']:.1f}" for name in ("full_ms", "reduced_ms")),
            Spread(**row["ratio"]).text(),
        )
        for row in result["pixels"]
    ]
    header = ("family", "images", "size", "scale", "mean", "largest", "full ms", "reduced ms", "reduced / full")
    answers = [
        (
            "x".join(map(str, row["size"])),
            *(str(row[name]) for name in ("questions", "changed")),
            *(f"{100 * row[name]:.1f}" for name in ("full_score", "reduced_score")),
        )
        for row in result["answers"]
    ]
    answer_header = ("size", "questions", "answers that change", "score, full", "score, reduced")
    return (
        "# JPEG images at a reduced scale\n\n"
        + origin(result)
        + "\n\nmean, largest: absolute differences of 8-bit pixels at the tower. Times: from the file to the tower"
        " input, medians of the rounds; ratios with the lowest and the highest round.\n\n"
        + table(header, rows, num_labels=4)
        + "\n## Answers of the shipped model\n\n"
        + table(answer_header, answers, num_labels=1)
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.speed.jpeg_scale", __doc__)
    add_seed(parser, 0, "the images and questions")
    parser.add_argument(
        "--images", type=positive, default=6, help="images of each kind and size (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=positive, default=7, help="rounds of the times (default: %(default)s)")
    parser.add_argument("--scenes", type=positive, default=60, help="images of the questions (default: %(default)s)")
    add_output(parser, images=1, rounds=1, scenes=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the report, and writes it into --out."""
    args = _arguments(argv)
    torch.set_num_threads(1)  # as in a decoding process
    rng = np.random.default_rng(args.seed)
    questions = evaluation_questions("easy", args.seed, args.images, ("count",))
    pixels = []
    with tempfile.TemporaryDirectory() as folder:
        families = _families(Path(folder))
        for size in _SIZES:
            kinds = {
                "photographs": [jpeg(photograph(size, rng), _QUALITY) for _ in range(args.images)],
                "small world": [small_world(question, size) for question in questions],
            }
            for name, media in families.items():
                for kind, files in kinds.items():
                    compared = _compare(media, files, size, args.rounds)
                    pixels.append({"family": name, "images": kind, "size": list(size), **compared})
    result = {
        "provenance": provenance("benchmarks.speed.jpeg_scale"),
        "pixels": pixels,
        "answers": _answers(args.seed, args.scenes, _SIZES),
    }
    publish(args.out, "jpeg_scale", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
