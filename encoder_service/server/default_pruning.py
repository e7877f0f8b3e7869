"""Pruner and budget of requests that name none: those of the settings, else those recommended beside the checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from encoder_service.pruners import PRUNERS
from encoder_service.settings import EncoderSettings
from fovea import checkpoints
from fovea.budget import Budget, InvalidBudget
from fovea.modeling.errors import CheckpointError
from fovea.pruner_spec import NO_PRUNING

__all__ = ["FILE", "PAPER", "DefaultPruning", "default_pruning", "find_recommendation"]

FILE: Final = "fovea.json"
"""Name of the file in a checkpoint. It is not part of the checkpoint's fingerprint: the gateway names pruner and budget
in every request, so that they are part of its cache keys."""

_MAX_BYTES: Final = 2**16
_FIELDS: Final[dict[str, type | tuple[type, ...]]] = {"pruner": str, "keep_ratio": (int, float), "measured": str}


@dataclass(frozen=True, slots=True)
class DefaultPruning:
    """Pruner and budget of requests that name none.

    Attributes:
        pruner: name of the pruner.
        keep_ratio: share of an image's visual tokens to keep.
        source: where both come from, in words for the log.
    """

    pruner: str
    keep_ratio: float
    source: str = "the service's own defaults"

    def __str__(self) -> str:
        keeps = "(all visual tokens)" if self.pruner == NO_PRUNING else f"and keep_ratio {self.keep_ratio:g}"
        return f"pruner {self.pruner} {keeps} by default ({self.source})"


PAPER: Final = DefaultPruning("desap", 0.111)
"""DeSAP at the smallest budget of its paper, 64 of 576 tokens."""


def default_pruning(settings: EncoderSettings, recommended: DefaultPruning | None = None) -> DefaultPruning:
    """The settings' pruner and budget; what they leave open is the checkpoint's recommendation, else `PAPER`.

    A recommended budget is measured with its pruner. It is not used with another one.
    """
    base = recommended or PAPER
    if settings.pruner and settings.pruner != base.pruner:
        base = PAPER
    if not settings.pruner and settings.keep_ratio is None:
        return base
    return DefaultPruning(
        settings.pruner or base.pruner,
        base.keep_ratio if settings.keep_ratio is None else settings.keep_ratio,
        "--pruner, --keep-ratio",
    )


def find_recommendation(model: str, revision: str | None) -> DefaultPruning | None:
    """The recommendation beside a checkpoint, `FILE`; None where there is none.

    Args:
        model: directory or hub id of the checkpoint, which has been resolved before.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: the file cannot be used.
    """
    file = checkpoints.resolve(model, files=[FILE], revision=revision) / FILE
    if not file.is_file():
        return None
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{FILE} of the checkpoint has more than {_MAX_BYTES:,} bytes")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{FILE} of the checkpoint cannot be read ({type(error).__name__})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{FILE} of the checkpoint is not JSON") from error
    return _read(content)


def _read(content: Any) -> DefaultPruning:
    if not isinstance(content, dict) or content.keys() != _FIELDS.keys():
        raise CheckpointError(f"{FILE} of the checkpoint is not a JSON object with {', '.join(_FIELDS)}")
    for name, kind in _FIELDS.items():
        if not isinstance(content[name], kind) or isinstance(content[name], bool):
            raise CheckpointError(f"{FILE} of the checkpoint: {name} has a value of another type")
    if content["pruner"] not in PRUNERS:
        raise CheckpointError(
            f"{FILE} of the checkpoint: there is no pruner {content['pruner']!r:.80}; accepted: {', '.join(PRUNERS)}"
        )
    try:
        Budget.ratio(content["keep_ratio"])
    except InvalidBudget as error:
        raise CheckpointError(f"{FILE} of the checkpoint: {error}") from error
    return DefaultPruning(content["pruner"], float(content["keep_ratio"]), f"recommended by {FILE} of the checkpoint")
