"""`python -m benchmarks.safety.media_cost`: what hostile media files cost for their bytes, and what bounds it.

Each file is read by `read_header` as in the gateway, then decoded and preprocessed by a worker process as in the
encoder service, with the default limits: images for LLaVA-1.5 (336 x 336), videos for Video-LLaVA (8 frames). Measured
are CPU seconds and the memory by which the worker grows; beside it is the memory that was charged, of which
`--max-decode-bytes` holds all. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.safety.costly_images import COSTLY_IMAGES
from benchmarks.safety.costly_videos import COSTLY_VIDEOS
from benchmarks.safety.media_cost_worker import measure
from encoder_service.media.decoding import MediaDecoder
from encoder_service.models.frames import FrameProcessor
from encoder_service.models.media import SquareMedia
from encoder_service.models.preprocessing import ImageProcessor
from encoder_service.settings import EncoderSettings
from fovea.errors import ServiceError
from fovea.media.image_headers import read_header
from fovea.processes import fork_server
from fovea.processes.worker_pool import WorkerPool, WorkerTimeout
from fovea.processes.worker_process import WorkerDied

__all__ = ["main"]

_SIDE: Final = 336
_LIMITS: Final = EncoderSettings.model_fields


def _decoder(folder: Path) -> MediaDecoder:
    square = {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}}
    CLIPImageProcessorPil(**square).save_pretrained(folder)
    media = SquareMedia(ImageProcessor(folder, _SIDE), (24, 24), FrameProcessor(folder, _SIDE))
    return MediaDecoder(media, _LIMITS["max_image_bytes"].default, _LIMITS["max_image_pixels"].default)


async def _in_worker(file: Path, is_video: bool, decoder: MediaDecoder) -> dict[str, Any]:
    """Costs of a file in a worker that is new, and is ended at the time limit of the encoder service."""
    seconds = float(_LIMITS["video_decode_timeout_s" if is_video else "image_decode_timeout_s"].default)
    async with WorkerPool(functools.partial(measure, decoder=decoder), size=1) as pool:
        try:
            return (await pool.run(str(file), is_video, timeout_s=seconds))[0]
        except (WorkerTimeout, WorkerDied) as error:
            outcome = f"ended after {seconds:g} s" if isinstance(error, WorkerTimeout) else "crashed"
            return {"cpu_s": seconds, "peak_bytes": None, "charged_bytes": None, "outcome": outcome}


def _header_s(data: bytes) -> float:
    """CPU seconds in which the gateway reads the header."""
    start = time.process_time()
    with contextlib.suppress(ServiceError):
        read_header(data)
    return round(time.process_time() - start, 4)


def _files(side: int, only: str) -> Iterator[tuple[str, str, bool, bytes]]:
    """Name, bound, whether it is a video, and bytes of each file."""
    for name, (bound, make) in COSTLY_IMAGES.items():
        if re.search(only, name):
            yield name, bound, False, make((side, side))
    for name, (bound, make_video) in COSTLY_VIDEOS.items():
        if re.search(only, name):
            yield name, bound, True, make_video()


def _measure_all(side: int, only: str, folder: Path) -> list[dict[str, Any]]:
    decoder, rows = _decoder(folder), []
    for name, bound, is_video, data in _files(side, only):
        (folder / "file").write_bytes(data)
        costs = asyncio.run(_in_worker(folder / "file", is_video, decoder))
        header_s = 0.0 if is_video else _header_s(data)
        rows.append({"kind": name, "bound": bound, "bytes": len(data), "header_cpu_s": header_s, **costs})
        print(f"{name}: {costs['outcome']}", file=sys.stderr)
    return rows


def markdown(result: dict[str, Any]) -> str:
    """The report of a result."""
    rows = [
        (
            row["kind"],
            f"{row['bytes']:,}",
            f"{1000 * row['header_cpu_s']:.1f}",
            f"{row['cpu_s']:.2f}",
            *(_megabytes(row[name]) for name in ("peak_bytes", "charged_bytes")),
            f"{1e6 * row['cpu_s'] / row['bytes']:,.1f}",
            _per_byte(row["peak_bytes"], row["bytes"]),
            row["bound"],
            row["outcome"],
        )
        for row in result["files"]
    ]
    columns = (
        *("file", "bytes", "header ms", "CPU s", "peak MB", "charged MB"),
        *("CPU us / byte", "memory / byte", "bounded by", "outcome"),
    )
    return (
        "# Cost of media files for their bytes\n\n"
        + origin(result, packages=("pillow", "av"))
        + f"\n\nImages of {result['side']} x {result['side']} pixels where the kind says nothing else."
        " CPU: in the worker, preprocessing included. Peak: memory by which the worker grows, without the copies of the"
        " file in the pipe."
        " Charged: memory of `--max-decode-bytes` that the file holds; 0 where the header alone refuses it.\n\n"
        + table(columns, rows, num_labels=1)
    )


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.1f}"


def _per_byte(count: int | None, size: int) -> str:
    return "-" if count is None else f"{count / size:,.1f}"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser("benchmarks.safety.media_cost", __doc__)
    parser.add_argument(
        "--side", type=positive, default=7000, help="width and height of the images (default: %(default)s)"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="kinds to measure (default: all)")
    add_output(parser, side=300, only="one colour|strip|scans|segments")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures; prints the report, and writes it into --out."""
    args = _arguments(argv)
    fork_server.preload("benchmarks.safety.media_cost_worker")
    with tempfile.TemporaryDirectory() as folder:
        files = _measure_all(args.side, args.only, Path(folder))
    packages = ("av",)
    result = {
        "provenance": provenance("benchmarks.safety.media_cost", packages=packages),
        "side": args.side,
        "files": files,
    }
    publish(args.out, "media_cost", result, markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
