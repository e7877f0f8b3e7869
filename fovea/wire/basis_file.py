"""File of a wire basis, in safetensors. Encoder service and LLM service load the same file."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from fovea import checkpoints
from fovea.wire import rans
from fovea.wire.basis import (
    DIGEST_BYTES,
    MAX_CLASS,
    MAX_STEPS_COARSER,
    MAX_STEPS_FINER,
    MAX_SYMBOL,
    MIN_CLASS,
    WireBasis,
)

__all__ = ["FILE", "BasisError", "find", "from_bytes", "load", "to_bytes"]

log = logging.getLogger(__name__)

Float32Array = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int64]

FILE: Final = "wire.basis"
"""Name of the file in a checkpoint; its suffix keeps it out of the checkpoint's fingerprint."""

_MAX_LOW_BITS: Final = 20
_DTYPES: Final = {
    "mean": np.float32,
    "synthesis": np.float32,
    "alone": np.int8,
    "together": np.int8,
    "frequencies": np.uint16,
    "step": np.int8,
}


class BasisError(Exception):
    """A file that is not a wire basis, or not one for this model. The message is one sentence for the operator."""


def to_bytes(
    mean: Float32Array,
    synthesis: Float32Array,
    token_levels: Levels,
    image_levels: Levels,
    frequencies: Levels,
    step: int,
) -> bytes:
    """Content of the file of a basis.

    Args:
        mean, synthesis, token_levels, image_levels, step: attributes of the `WireBasis`.
        frequencies: frequencies of the basis's `FrequencyTables`.
    """
    arrays = (mean, synthesis, token_levels, image_levels, frequencies, np.array([step]))
    named = zip(_DTYPES.items(), arrays, strict=True)
    return safetensors.numpy.save({name: np.ascontiguousarray(array, dtype) for (name, dtype), array in named})


def from_bytes(data: bytes) -> WireBasis:
    """Basis in the content of a file, see `to_bytes`.

    Raises:
        BasisError: the content is not a basis.
    """
    arrays = _read_arrays(data)
    mean, synthesis = arrays["mean"], arrays["synthesis"]
    if not (np.isfinite(mean).all() and np.isfinite(synthesis).all()):
        raise BasisError("the wire basis holds NaN or infinity")
    if np.linalg.matrix_rank(synthesis) < len(mean):
        raise BasisError("the directions of the wire basis cannot be inverted")
    token_levels, image_levels, frequencies = (
        arrays[name].astype(np.int64) for name in ("alone", "together", "frequencies")
    )
    if (frequencies < 1).any() or (frequencies.sum(axis=1) != rans.TOTAL).any():
        raise BasisError(f"the tables of the wire basis do not sum up to {rans.TOTAL}")
    step = int(arrays["step"][0])
    _check_step(step, int(max(token_levels.max(), image_levels.max(initial=-128))))
    digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
    return WireBasis(mean, synthesis, token_levels, image_levels, rans.FrequencyTables(frequencies), step, digest)


def _read_arrays(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Tensors of a file by name, with the dtypes and shapes of a basis."""
    try:
        arrays = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise BasisError("a wire basis is a safetensors file, and this file is not") from error
    if {name: array.dtype for name, array in arrays.items()} != {name: np.dtype(d) for name, d in _DTYPES.items()}:
        raise BasisError(f"a wire basis holds {', '.join(_DTYPES)}, this file does not")
    channels = arrays["mean"].size
    shapes = {
        "mean": (channels,),
        "synthesis": (channels, channels),
        "alone": (channels,),
        "together": (len(arrays["together"]), channels),
        "frequencies": (MAX_CLASS - MIN_CLASS + 1, 2 * MAX_SYMBOL + 1),
        "step": (1,),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong or not channels:
        raise BasisError(f"the wire basis has wrong shapes: {', '.join(wrong)}")
    return arrays


def _check_step(step: int, max_level: int) -> None:
    if not -128 + MAX_STEPS_FINER <= step <= 127 - MAX_STEPS_COARSER:
        raise BasisError(f"step {step} of the wire basis leaves no room for finer or coarser ones")
    if max_level - (step - MAX_STEPS_FINER) > MAX_CLASS + 4 * _MAX_LOW_BITS:
        raise BasisError("a level of the wire basis is too far above its step")


def load(path: Path) -> WireBasis:
    """Basis in a file.

    Raises:
        BasisError: the file cannot be read, or is not a basis.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BasisError(f"the wire basis {path.name!r} cannot be read ({type(error).__name__})") from error
    return from_bytes(data)


def find(path: str, model: str, revision: str | None, channels: int) -> WireBasis | None:
    """Basis of a service: that of the file `path`, else that of the checkpoint `model`, else None.

    Args:
        path: file of a basis; empty for that of the checkpoint.
        model: directory or hub id of the checkpoint, which has been resolved before.
        revision: branch, tag or commit on the hub.
        channels: channels of the model's visual tokens.

    Raises:
        BasisError: the file cannot be used.
    """
    file = Path(path).expanduser() if path else checkpoints.resolve(model, files=[FILE], revision=revision) / FILE
    if not path and not file.is_file():
        return None
    basis = load(file)
    if basis.channels != channels:
        raise BasisError(f"the wire basis has {basis.channels} channels, visual tokens of this model have {channels}")
    log.info("wire basis %s, coded by the %s rANS coder", basis.digest.hex(), rans.coder_name())
    return basis
