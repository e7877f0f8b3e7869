"""Cache of the features of images and videos, so that a second question about one does not run the vision tower."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Set
from typing import NamedTuple

from cachetools import LRUCache

from encoder_service.models.media_features import MediaFeatures
from encoder_service.pruners.in_tower import InTowerPruner
from encoder_service.pruners.tower_outputs import TowerOutput

__all__ = ["FeatureCache", "FeatureKey"]


class FeatureKey(NamedTuple):
    """Key of the features of an image or video.

    Attributes:
        digest: SHA-256 of the file, and of the options of its preprocessing.
        in_tower: Pruner inside the tower; None for none.
        cache_salt: Tenant to whom the entry belongs; empty for requests without a salt.
    """

    digest: bytes
    in_tower: InTowerPruner | None = None
    cache_salt: str = ""


class FeatureCache:
    """Least-recently-used cache of features before pruning, bounded by their bytes. Any thread may use it.

    An entry serves every request with its key whose tower outputs it has. The tensors stay where the tower computed
    them: in device memory on a GPU. They are copies, since a part of a batch would keep the whole batch in memory.

    Args:
        max_bytes: Bound of all entries together; 0 disables the cache. The oldest entries are evicted. Features that
            are larger by themselves are not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[FeatureKey, MediaFeatures] = LRUCache(max_bytes, getsizeof=lambda entry: entry.nbytes)

    def get(self, key: FeatureKey, outputs: Set[TowerOutput]) -> MediaFeatures | None:
        """Features of an image or video if they are cached with all `outputs`."""
        with self._lock:
            entry = self._entries.get(key)
        return entry if entry is not None and entry.have(outputs) else None

    def put(self, key: FeatureKey, features: MediaFeatures) -> None:
        """Adds features; their tower outputs are merged with those that are cached under the same key."""
        if features.nbytes > self._entries.maxsize:
            return
        features = features.copied()
        with self._lock:
            cached = self._entries.get(key)
            if cached is not None:
                outputs = {**cached.batch.outputs, **features.batch.outputs}
                features = dataclasses.replace(cached, batch=dataclasses.replace(cached.batch, outputs=outputs))
            if features.nbytes <= self._entries.maxsize:
                self._entries[key] = features

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        with self._lock:
            return int(self._entries.currsize)
