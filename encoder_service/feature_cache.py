"""Features of pictures seen lately, so that a second question about one does not run the vision tower."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Set

from cachetools import LRUCache

from encoder_service.pruners.base import TowerFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput
from encoder_service.visual import MediaFeatures

__all__ = ["FeatureCache"]


class FeatureCache:
    """Least-recently-used features before pruning, bounded by their bytes. Any thread may use it.

    One entry a picture and tower, under the SHA-256 of the file and what prunes inside the tower (None for nothing); it
    answers for every set of views that it covers. What is cached lies where the tower made it: in device memory on a
    GPU.

    Args:
        max_bytes: Bound of all entries together; 0 switches the cache off. The oldest make room; a picture that is
            larger alone is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[tuple[bytes, InTowerPruner | None], MediaFeatures] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.nbytes
        )

    def get(
        self, digest: bytes, outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> MediaFeatures | None:
        """The features of a picture if they are there with all `views`, made by the same tower."""
        with self._lock:
            found = self._entries.get((digest, in_tower))
        return found if found is not None and found.have(outputs) else None

    def put(self, digest: bytes, features: MediaFeatures, in_tower: InTowerPruner | None = None) -> None:
        """Keeps features, together with the views that an earlier question left of the same picture."""
        with self._lock:
            known = self._entries.get((digest, in_tower))
            if known is not None:
                parts = tuple(map(_with_views_of, known.parts, features.parts))
                features = dataclasses.replace(known, parts=parts)
            if features.nbytes <= self._entries.maxsize:
                self._entries[digest, in_tower] = features

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        with self._lock:
            return int(self._entries.currsize)


def _with_views_of(known: TowerFeatures, new: TowerFeatures) -> TowerFeatures:
    return dataclasses.replace(known, outputs={**known.outputs, **new.outputs})
