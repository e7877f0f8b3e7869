"""`python -m encoder_service.calibrate --model ... --pictures DIR --out wire.basis`: learns a checkpoint's wire basis.

It takes a few hundred images like those that will be asked about. Put the file beside the weights as wire.basis, or
name it with --wire-basis, for both services. All visual tokens of the images are held in memory: 2.4 MB an image for
LLaVA-1.5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from encoder_service import models
from encoder_service.basis_learning import learn_basis
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.request_media import EncodeRequest, RequestMedia
from encoder_service.models.base import LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner
from encoder_service.settings import EncoderSettings
from fovea import checkpoints
from fovea.budget import Budget
from fovea.errors import ServiceError
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import read_tensors
from fovea.wire import basis_file

__all__ = ["main"]

# Weight that reads the tokens of the LLaVA families. Qwen's tokens are read by the language model itself, where all
# channels have the same weight.
_READER: Final = {
    "multi_modal_projector.linear_1.weight": "weight",
    "model.multi_modal_projector.linear_1.weight": "weight",
}
_BATCH_SIZE: Final = 8


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m encoder_service.calibrate", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint: a directory or a hub id")
    parser.add_argument("--text-tower", default="", help="its CLIP checkpoint; empty: the family's own")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--pictures", type=Path, required=True, metavar="DIR", help="folder of images, every file in it"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the basis goes")
    return parser.parse_args(argv)


def _tokens(args: argparse.Namespace, files: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    """All visual tokens of each image."""
    defaults = EncoderSettings.model_fields
    engine = EncoderEngine(
        models.load(args.model, LoadOptions(text_tower=args.text_tower, revision=args.revision, device=args.device)),
        FeatureCache(0),
        max_batch_size=_BATCH_SIZE,
        max_image_bytes=defaults["max_image_bytes"].default,
        max_image_pixels=defaults["max_image_pixels"].default,
    )
    unpruned = PRUNERS["none"].bind({})
    for start in range(0, len(files), _BATCH_SIZE):
        batch = files[start : start + _BATCH_SIZE]
        for outcome in engine.run([_prepared(engine, file, unpruned) for file in batch]):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome[0].features


def _prepared(engine: EncoderEngine, file: Path, pruner: BoundPruner) -> tuple[RequestMedia, ...]:
    try:
        return engine.prepare(EncodeRequest((file.read_bytes(),), (), pruner, Budget.ratio(1.0)))
    except ServiceError as error:
        raise ValueError(f"{file.name}: {error.message}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Learns a wire basis. Exit status 1 when the model or an image cannot be read, 2 on a wrong argument."""
    args = _arguments(argv)
    try:
        files = sorted(file for file in args.pictures.iterdir() if file.is_file())
        if not files:
            raise ValueError(f"there are no images in {args.pictures}")
        images = list(_tokens(args, files))
        checkpoint = checkpoints.resolve(args.model, files=["*.safetensors*"], revision=args.revision)
        reader = read_tensors(checkpoint, _READER, reads_bin=True).get("weight")
        data = learn_basis(images, None if reader is None else reader.to(torch.float32).numpy())
        args.out.write_bytes(data)
    except (CheckpointError, OSError, ServiceError, ValueError) as error:
        print(f"python -m encoder_service.calibrate: {error}", file=sys.stderr)
        return 1
    basis = basis_file.from_bytes(data)
    print(f"{args.out}: wire basis {basis.digest.hex()} of {len(images)} images, {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
