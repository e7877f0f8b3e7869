"""Cache of the features of images and videos, so that a second question about one does not run the vision tower."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Set

from cachetools import LRUCache

from encoder_service.models.media_features import MediaFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = ["FeatureCache"]


class FeatureCache:
    """Least-recently-used cache of features before pruning, bounded by their bytes. Any thread may use it.

    The key is the SHA-256 of the file, and of the options of its preprocessing, together with the pruner inside the
    tower (None for none). An entry serves every request whose tower outputs it has. The tensors stay where the tower
    computed them: in device memory on a GPU. They are copies, since a part of a batch would keep the whole batch in
    memory.

    Args:
        max_bytes: Bound of all entries together; 0 disables the cache. The oldest entries are evicted. Features that
            are larger by themselves are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[tuple[bytes, InTowerPruner | None], MediaFeatures] = LRUCache(
            max_bytes, getsizeof=lambda entry: entry.nbytes
        )

    def get(
        self, digest: bytes, outputs: Set[TowerOutput], in_tower: InTowerPruner | None = None
    ) -> MediaFeatures | None:
        """Features of an image or video if they are cached with all `outputs`, from a tower pruned the same way."""
        with self._lock:
            entry = self._entries.get((digest, in_tower))
        return entry if entry is not None and entry.have(outputs) else None

    def put(self, digest: bytes, features: MediaFeatures, in_tower: InTowerPruner | None = None) -> None:
        """Adds features; their tower outputs are merged with those that are cached for the same image or video."""
        if features.nbytes > self._entries.maxsize:
            return
        features = features.copied()
        with self._lock:
            cached = self._entries.get((digest, in_tower))
            if cached is not None:
                outputs = {**cached.batch.outputs, **features.batch.outputs}
                features = dataclasses.replace(cached, batch=dataclasses.replace(cached.batch, outputs=outputs))
            if features.nbytes <= self._entries.maxsize:
                self._entries[digest, in_tower] = features

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        with self._lock:
            return int(self._entries.currsize)
