"""Fingerprint of everything but the checkpoint that changes an encoder's results."""

from __future__ import annotations

import hashlib

import torch

import fovea
from encoder_service.models.base import LoadOptions

__all__ = ["settings_fingerprint"]


def settings_fingerprint(options: LoadOptions, device: torch.device, dtype: torch.dtype, *processors: str) -> str:
    """16 hex digits that change when the same checkpoint may give other features.

    Args:
        options: Options of loading.
        device: Device of the towers.
        dtype: Compute dtype.
        processors: Descriptions of the media processors.
    """
    changes_results = [fovea.__version__, device.type, str(dtype), options.attn_implementation, *processors]
    if options.compile:
        changes_results.append("compiled")
    return hashlib.sha256("|".join(changes_results).encode()).hexdigest()[:16]
