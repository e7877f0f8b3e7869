"""`python -m benchmarks.speed.feature_copies`: copies of one image's visual tokens on their way through the services.

The three services run with a library that counts the bytes of memcpy and memmove by caller (`copied_bytes.c`). The same
questions are answered with two numbers of visual tokens. What is copied more with more tokens, over the bytes that the
tokens have more in float16, is the number of copies of each byte, whatever else a service copies. The count holds on
any machine.

It leaves out the copies of the kernel, two for each connection, and loops that convert values or compute with them.
Needs Linux and a C compiler. Writes `feature_copies.json` and `.md` into --out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.checkpoints.random_llava import SIZES, Checkpoint, provide
from benchmarks.harness.arguments import command_parser, positive
from benchmarks.harness.output import add_output, publish
from benchmarks.harness.provenance import origin, provenance
from benchmarks.harness.tables import table
from benchmarks.scaling.clients import jpeg_files
from fovea.processes.stack import SERVICE_NAMES, Stack, free_port

__all__ = ["build_counter", "copies", "main", "markdown"]

_TIMEOUT_S: Final = 300.0
_SIZE: Final = "small"
_BYTES_PER_VALUE: Final = 2  # float16
_PATH: Final = ("encoder_service", "gateway", "llm_service")
# Libraries between the tower's output and the language model; torch and its mathematics copy for other reasons as well.
_LIBRARIES: Final = {
    "_message": "protobuf",
    "cygrpc": "gRPC",
    "_multiarray_umath": "numpy",
    "libpython": "Python",
    "python": "Python",  # an interpreter without a library of its own
}

Copied = dict[str, Counter[tuple[str, str]]]
"""Bytes copied by service, and by library and function."""


def build_counter(folder: Path) -> Path:
    """The library that counts, compiled into `folder`."""
    source, built = Path(__file__).with_name("copied_bytes.c"), folder / "copied_bytes.so"
    # Without the option, the loops would be compiled to calls of the functions that they replace.
    flags = ["-O2", "-shared", "-fPIC", "-fno-builtin", "-fno-tree-loop-distribute-patterns"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", str(built), str(source)], check=True)
    return built


def _copied(checkpoint: Checkpoint, library: Path, images: Sequence[bytes], num_tokens: int) -> Copied:
    """What the services copy from their start to their end, while they answer a question about each image."""
    with tempfile.TemporaryDirectory() as scratch:
        counts, log = Path(scratch) / "counts", Path(scratch) / "log"
        counts.mkdir()
        stack = Stack(
            str(checkpoint.model),
            str(checkpoint.text_tower),
            listen=f"127.0.0.1:{free_port()}",
            environment={
                "LD_PRELOAD": str(library),
                "COPIED_BYTES": str(counts),
                "HF_HUB_OFFLINE": "1",
                "PYTHONDONTWRITEBYTECODE": "1",  # the first start would compile what later ones read
            },
            log_to=log,
        )
        with stack:
            stack.wait_ready(_TIMEOUT_S)
            pids = {service: process.pid for service, process in stack.processes.items()}
            _answer(stack.url, images, num_tokens)
        return {service: _read(counts / str(pid)) for service, pid in pids.items()}


def _answer(url: str, images: Sequence[bytes], num_tokens: int) -> None:
    form = {"question": "what colour is it?", "max_tokens": "1", "pruner": "desap", "wire_dtype": "float16"}
    with httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False) as http:
        for image in images:
            words = {**form, "keep_tokens": str(num_tokens)}
            http.post("/v1/answer", data=words, files={"image": ("image.jpg", image)}).raise_for_status()


def _read(file: Path) -> Counter[tuple[str, str]]:
    """Copied bytes by library and function, from the file of a process."""
    copied = Counter[tuple[str, str]]()
    for line in file.read_text(encoding="utf-8").splitlines():
        num_bytes, _, path, function = line.split("\t")
        name = next((label for part, label in _LIBRARIES.items() if Path(path).name.startswith(part)), "other")
        copied[name, function] += int(num_bytes)
    return copied


def copies(few: Copied, many: Copied, feature_bytes: int) -> dict[str, dict[str, dict[str, float]]]:
    """Copies of each byte of the features by service, library and function.

    Args:
        few, many: What was copied for few and for many visual tokens, of the same images.
        feature_bytes: Bytes in float16 of the visual tokens that are many beyond few, of all images.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for service in _PATH:
        more = Counter(many[service])
        more.subtract(few[service])
        for (library, function), num_bytes in sorted(more.items()):
            found.setdefault(service, {}).setdefault(library, {})[function] = round(num_bytes / feature_bytes, 3)
    return found


def markdown(result: dict[str, Any]) -> str:
    """The report."""
    rows, names = [], list(dict.fromkeys(_LIBRARIES.values()))
    for service, libraries in result["copies"].items():
        counts = [sum(libraries.get(name, {}).values()) for name in names]
        rows.append([SERVICE_NAMES[service], *(f"{count:.1f}" for count in counts), f"{sum(counts):.1f}"])
    few, many = result["tokens"]
    return (
        f"# Copies of an image's visual tokens\n\n{origin(result, packages=['protobuf', 'grpcio', 'numpy'])} Copies of"
        f" each byte of the features in float16, from {result['images']} images with {few} and with {many} visual"
        " tokens. Copies of the kernel, and loops that convert values, are not among them.\n\n"
    ) + table(["service", *names, "all"], rows, num_labels=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Counts; prints the table, and writes it into --out."""
    parser = command_parser("benchmarks.speed.feature_copies", __doc__)
    parser.add_argument("--images", type=positive, default=16, help="number of images (default: %(default)s)")
    parser.add_argument(
        "--tokens", type=positive, nargs=2, default=[128, 512], help="visual tokens of an image (default: 128 512)"
    )
    add_output(parser, images=2)
    args = parser.parse_args(argv)
    result = {"provenance": provenance("benchmarks.speed.feature_copies", packages=["protobuf"]), **_measure(args)}
    publish(args.out, "feature_copies", result, markdown(result))
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    images = jpeg_files(args.images)
    few, many = args.tokens
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, library = provide(Path(scratch), _SIZE), build_counter(Path(scratch))
        copied = {num_tokens: _copied(checkpoint, library, images, num_tokens) for num_tokens in (few, many)}
    feature_bytes = args.images * (many - few) * SIZES[_SIZE].tower_width * _BYTES_PER_VALUE
    return {
        "images": args.images,
        "tokens": [few, many],
        "feature_bytes": feature_bytes,
        "copies": copies(copied[few], copied[many], feature_bytes),
    }


if __name__ == "__main__":
    sys.exit(main())
