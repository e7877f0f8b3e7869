"""Error of a checkpoint that cannot be served."""

from __future__ import annotations

__all__ = ["CheckpointError"]


class CheckpointError(Exception):
    """A checkpoint that a service cannot run. The message is one sentence for the operator, without paths."""
