"""`python -m encoder_service.calibrate --model ... --pictures DIR --out wire.basis`: learns a checkpoint's wire basis.

From a few hundred pictures like those that will be asked about. Put the file beside the weights as wire.basis, or name
it with --wire-basis, for both services. All visual tokens of the pictures are held in memory: 2.4 MB for each of
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
from encoder_service.basis_learning import learn
from encoder_service.engine import EncoderEngine, EncodeRequest, PreparedRequest
from encoder_service.feature_cache import FeatureCache
from encoder_service.models.base import LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner
from encoder_service.settings import EncoderSettings
from fovea import checkpoints
from fovea.errors import ServiceError
from fovea.modeling.errors import CheckpointError
from fovea.modeling.weights import read_tensors
from fovea.wire import basis_file

__all__ = ["main"]

# What reads the tokens of the LLaVA families. Qwen's are read by the language model, where all channels count alike.
_READER: Final = {
    "multi_modal_projector.linear_1.weight": "weight",
    "model.multi_modal_projector.linear_1.weight": "weight",
}
_PICTURES_AT_ONCE: Final = 8


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m encoder_service.calibrate", description=__doc__)
    parser.add_argument("--model", required=True, help="checkpoint: a directory or a hub id")
    parser.add_argument("--text-tower", default="", help="its CLIP checkpoint; empty: the family's own")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the hub")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="every file in it is a picture")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the basis goes")
    return parser.parse_args(argv)


def _tokens(args: argparse.Namespace, files: Sequence[Path]) -> Iterator[npt.NDArray[np.float32]]:
    """All visual tokens of each picture."""
    defaults = EncoderSettings.model_fields
    engine = EncoderEngine(
        models.load(args.model, LoadOptions(text_tower=args.text_tower, revision=args.revision, device=args.device)),
        FeatureCache(0),
        max_batch_size=_PICTURES_AT_ONCE,
        max_image_bytes=defaults["max_image_bytes"].default,
        max_image_pixels=defaults["max_image_pixels"].default,
    )
    everything = PRUNERS["none"].bind({})
    for start in range(0, len(files), _PICTURES_AT_ONCE):
        some = files[start : start + _PICTURES_AT_ONCE]
        for outcome in engine.run([_prepared(engine, file, everything) for file in some]):
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome[0].features


def _prepared(engine: EncoderEngine, file: Path, pruner: BoundPruner) -> PreparedRequest:
    try:
        return engine.prepare(EncodeRequest((file.read_bytes(),), (), pruner, keep_ratio=1.0))
    except ServiceError as error:
        raise ValueError(f"{file.name}: {error.message}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when the model or a picture cannot be read, 2 on a wrong argument."""
    args = _arguments(argv)
    try:
        files = sorted(file for file in args.pictures.iterdir() if file.is_file())
        if not files:
            raise ValueError(f"there are no pictures in {args.pictures}")
        pictures = list(_tokens(args, files))
        checkpoint = checkpoints.resolve(args.model, files=["*.safetensors*"], revision=args.revision)
        reader = read_tensors(checkpoint, _READER).get("weight")
        data = learn(pictures, None if reader is None else reader.to(torch.float32).numpy())
        args.out.write_bytes(data)
    except (CheckpointError, OSError, ServiceError, ValueError) as error:
        print(f"python -m encoder_service.calibrate: {error}", file=sys.stderr)
        return 1
    basis = basis_file.from_bytes(data)
    print(f"{args.out}: wire basis {basis.digest.hex()} of {len(pictures)} pictures, {len(data):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
