"""The file of a wire basis: safetensors, no pickle. Both services load the same one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

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

Float32Array = npt.NDArray[np.float32]
Levels = npt.NDArray[np.int64]

FILE: Final = "wire.basis"  # beside the weights; its name keeps it out of their fingerprint
_MOST_LOW_BITS: Final = 20
_DTYPES: Final = {
    "mean": np.float32,
    "synthesis": np.float32,
    "alone": np.int8,
    "together": np.int8,
    "frequencies": np.uint16,
    "step": np.int8,
}


class BasisError(Exception):
    """A file that is no wire basis, or not one for this model. The message is one sentence for the operator."""


def to_bytes(
    mean: Float32Array, synthesis: Float32Array, alone: Levels, together: Levels, frequencies: Levels, step: int
) -> bytes:
    """The file of a basis; see `WireBasis`."""
    arrays = (mean, synthesis, alone, together, frequencies, np.array([step]))
    named = zip(_DTYPES.items(), arrays, strict=True)
    return safetensors.numpy.save({name: np.ascontiguousarray(array, dtype) for (name, dtype), array in named})


def from_bytes(data: bytes) -> WireBasis:
    """What `to_bytes` wrote.

    Raises:
        BasisError: It is something else.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except SafetensorError as error:
        raise BasisError("a wire basis is a safetensors file, this is none") from error
    if {name: array.dtype for name, array in arrays.items()} != {name: np.dtype(d) for name, d in _DTYPES.items()}:
        raise BasisError(f"a wire basis holds {', '.join(_DTYPES)}, this file does not")
    channels = arrays["mean"].size
    rows = len(arrays["together"])
    shapes = {
        "mean": (channels,),
        "synthesis": (channels, channels),
        "alone": (channels,),
        "together": (rows, channels),
        "frequencies": (MAX_CLASS - MIN_CLASS + 1, 2 * MAX_SYMBOL + 1),
        "step": (1,),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong or not channels:
        raise BasisError(f"the wire basis has wrong shapes: {', '.join(wrong)}")
    mean, synthesis = arrays["mean"], arrays["synthesis"]
    if not (np.isfinite(mean).all() and np.isfinite(synthesis).all()):
        raise BasisError("the wire basis holds NaN or infinity")
    if np.linalg.matrix_rank(synthesis) < channels:
        raise BasisError("the directions of the wire basis cannot be inverted")
    alone, together, frequencies = (arrays[name].astype(np.int64) for name in ("alone", "together", "frequencies"))
    if (frequencies < 1).any() or (frequencies.sum(axis=1) != rans.TOTAL).any():
        raise BasisError(f"the tables of the wire basis do not sum up to {rans.TOTAL}")
    step = int(arrays["step"][0])
    if not -128 + MAX_STEPS_FINER <= step <= 127 - MAX_STEPS_COARSER:
        raise BasisError(f"step {step} of the wire basis leaves no room for finer or coarser ones")
    loudest = max(alone.max(), together.max(initial=-128))
    if loudest - (step - MAX_STEPS_FINER) > MAX_CLASS + 4 * _MOST_LOW_BITS:
        raise BasisError("a level of the wire basis is too far above its step")
    digest = hashlib.sha256(data).digest()[:DIGEST_BYTES]
    return WireBasis(mean, synthesis, alone, together, rans.Tables(frequencies), step, digest)


def load(path: Path) -> WireBasis:
    """Reads a file.

    Raises:
        BasisError: It cannot be read, or is no basis.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BasisError(f"the wire basis {path.name!r} cannot be read ({type(error).__name__})") from error
    return from_bytes(data)


def find(path: str, model: str, revision: str | None, channels: int) -> WireBasis | None:
    """The basis that a service is to use: the file `path`, else the one in the checkpoint `model`, if it has one.

    Args:
        path: "" for none given.
        model: A directory or hub id that has been resolved before.
        revision: On the hub.
        channels: Of the model's visual tokens.

    Raises:
        BasisError: A file that cannot be used.
    """
    file = Path(path).expanduser() if path else checkpoints.resolve(model, files=[FILE], revision=revision) / FILE
    if not path and not file.is_file():
        return None
    basis = load(file)
    if basis.channels != channels:
        raise BasisError(f"the wire basis has {basis.channels} channels, visual tokens of this model have {channels}")
    return basis
