"""What the encoder service says of a result and of itself, as messages."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoder_service.assembly import EncodedMedia
from encoder_service.batching import Batched
from encoder_service.models.base import EncoderModel
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import Pruner
from encoder_service.requests import pruners_of
from encoder_service.settings import EncoderSettings
from encoder_service.visual import PatchLayout
from encoder_service.wire_budget import widest
from fovea import checkpoints
from fovea.errors import InternalError, InvalidRequest
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire import tensors
from fovea.wire.basis import WireBasis
from fovea.wire.pruner_info import describe_pruner

__all__ = ["Wire", "describe", "write_response"]

log = logging.getLogger("encoder_service")


@dataclass(frozen=True)
class Wire:
    """How visual tokens are to travel: in `dtype`; with a budget of `max_bytes` in any that fits where `dtype` is 0.

    `basis` is the one that is loaded.
    """

    dtype: tensor_pb2.DType
    max_bytes: int = 0
    basis: WireBasis | None = None


def write_response(
    done: Batched[tuple[EncodedMedia, ...]],
    pruner: str,
    fingerprint: str,
    wire: Wire,
    *,
    explain: bool,
) -> encoder_pb2.EncodeResponse:
    """The message of a result.

    Raises:
        InvalidRequest: A feature is too large for the dtype, or the tokens do not fit the budget of bytes.
        InternalError: A feature is NaN or infinite.
    """

    def write(dtype: tensor_pb2.DType, step: int | None = None) -> list[tensor_pb2.VisualTokens]:
        return [_visual_tokens(visual, fingerprint, dtype, wire.basis, step) for visual in done.result]

    features = [visual.features for visual in done.result]
    return encoder_pb2.EncodeResponse(
        visual_tokens=(
            widest(write, features, wire.max_bytes, wire.dtype, wire.basis) if wire.max_bytes else write(wire.dtype)
        ),
        pruner=pruner,
        num_tokens_total=[visual.num_tokens_total for visual in done.result],
        explanations=[_explanation(visual) for visual in done.result] if explain else [],
        timing=encoder_pb2.EncodeTiming(
            queue_ms=done.queue_ms, decode_ms=done.prepare_ms, forward_ms=done.run_ms, batch_size=done.batch_size
        ),
        features_cached=[visual.features_cached for visual in done.result],
    )


def _visual_tokens(
    visual: EncodedMedia, fingerprint: str, wire_dtype: tensor_pb2.DType, basis: WireBasis | None, step: int | None
) -> tensor_pb2.VisualTokens:
    return tensor_pb2.VisualTokens(
        features=_features(visual.features, wire_dtype, basis, step),
        positions=visual.positions.tolist(),
        grid=_grid(visual.layout),
        fingerprint=fingerprint,
        newline_after=visual.newline_after.tolist(),
        kind=tensor_pb2.VISUAL_KIND_VIDEO if visual.layout.is_video else tensor_pb2.VISUAL_KIND_IMAGE,
        seconds_per_frame=visual.layout.seconds_per_frame,
    )


def _features(
    features: tensors.Float32Array, wire_dtype: tensor_pb2.DType, basis: WireBasis | None, step: int | None
) -> tensor_pb2.Tensor:
    if not (finite := np.isfinite(features)).all():
        # No choice of the caller's: a computation in half precision has overflowed, or a weight is broken.
        log.error("%d of %d features are not finite; --dtype bfloat16 has more room", (~finite).sum(), finite.size)
        raise InternalError("the encoder service computed features that are not finite")
    try:
        return tensors.to_message(features, wire_dtype, basis=basis, step=step)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"a feature of this picture is too large for {tensors.dtype_name(wire_dtype)};"
            f" accepted: {', '.join(name for name, dtype in tensors.DTYPES.items() if _holds(dtype, features, basis))}",
            param="wire_dtype",
        ) from error


def _holds(dtype: tensor_pb2.DType, features: tensors.Float32Array, basis: WireBasis | None) -> bool:
    try:
        tensors.to_message(features, dtype, basis=basis)
    except InvalidRequest:
        return False
    return True


def _grid(layout: PatchLayout) -> tensor_pb2.Grid:
    return tensor_pb2.Grid(
        frames=layout.num_inputs, rows=layout.rows, columns=layout.columns, cls_per_frame=layout.cls_per_input
    )


def _explanation(visual: EncodedMedia) -> encoder_pb2.Explanation:
    return encoder_pb2.Explanation(
        task_map=[] if visual.task_map is None else visual.task_map.tolist(),
        saliency_map=[] if visual.saliency_map is None else visual.saliency_map.tolist(),
        merged_into=visual.cluster_of_patch.tolist(),
    )


def describe(
    model: EncoderModel, settings: EncoderSettings, basis: WireBasis | None = None
) -> encoder_pb2.GetEncoderInfoResponse:
    """What the service runs and with which defaults."""
    wire_basis = basis.digest.hex() if basis is not None else ""
    return encoder_pb2.GetEncoderInfoResponse(
        model=settings.served_model_name or checkpoints.public_name(settings.model),
        family=model.family,
        fingerprint=model.fingerprint,
        text_tower_fingerprint=model.text_tower_fingerprint,
        grid=None if model.grid is None else _grid(PatchLayout(1, *model.grid)),
        hidden_size=model.hidden_size,
        pruners=[_pruner_info(pruner) for name, pruner in PRUNERS.items() if name in pruners_of(model)],
        default_pruner=settings.pruner,
        default_keep_ratio=settings.keep_ratio,
        default_wire_dtype=tensors.parse_dtype(settings.wire_dtype),
        max_text_ids=model.max_text_ids,
        max_images=model.max_images,
        settings_fingerprint=model.settings_fingerprint + wire_basis,
        max_videos=model.max_videos,
        max_frames=settings.max_video_frames if model.max_videos else 0,
        text_tokenizer=(
            encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL
            if model.reads_language_model_ids
            else encoder_pb2.TEXT_TOKENIZER_TEXT_TOWER
        ),
        wire_basis=wire_basis,
    )


def _pruner_info(pruner: Pruner[Any]) -> encoder_pb2.PrunerInfo:
    return describe_pruner(
        pruner.name,
        side="encoder",
        summary=pruner.summary,
        reference=pruner.reference,
        reads_text=pruner.reads_text,
        parameters=pruner.describe(),
        chooses_budget=pruner.choose_keep is not None,
    )
