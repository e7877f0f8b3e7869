"""Visual tokens of an image or video, as they leave the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from encoder_service.engine.wire_values import TokenValues, is_float32
from encoder_service.models.media_features import PatchLayout
from fovea.wire.tensors import Float32Array

__all__ = ["EncodedMedia"]


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """Visual tokens of an image or video, as numpy arrays.

    Attributes:
        values: K tokens in the order in which the language model reads them, in the wire format to which the device
            has converted them.
        positions: [K] int64, grid positions as on the wire, all different.
        newline_after: Indices of the tokens after which a row of the mosaic ends, ascending. An index is repeated if
            several rows end there.
        cluster_of_patch: [num_patches] int64, index of the token that a patch is or was merged into; -1 if it was
            dropped or is padding.
        task_map, saliency_map: [num_patches] float32, 0 at padding; None if the pruner has no such map.
        layout: Grid of the patches.
        num_tokens_total: Number of visual tokens before pruning.
        features_cached: Whether the features come from the cache.
        planes: DeepStack planes of the tokens, in the form of `values`; empty for a family without them.
    """

    values: TokenValues
    positions: npt.NDArray[np.int64]
    newline_after: npt.NDArray[np.int64]
    cluster_of_patch: npt.NDArray[np.int64]
    task_map: npt.NDArray[np.float32] | None
    saliency_map: npt.NDArray[np.float32] | None
    layout: PatchLayout
    num_tokens_total: int
    features_cached: bool
    planes: tuple[TokenValues, ...] = ()

    @property
    def features(self) -> Float32Array:
        """The tokens, [K, C] float32.

        Raises:
            ValueError: The device has converted them to another wire format.
        """
        if is_float32(self.values):
            return self.values
        raise ValueError("the tokens have been converted to a wire format other than float32")

    @property
    def vectors(self) -> tuple[TokenValues, ...]:
        """The tokens, then their planes."""
        return self.values, *self.planes
