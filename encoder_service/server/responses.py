"""EncodeResponse and GetEncoderInfoResponse messages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoder_service.engine.batching import BatchTiming
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.wire_values import TokenValues, TokenVectors, converted, is_float32
from encoder_service.models.base import EncoderModel
from encoder_service.models.image_fit import Box
from encoder_service.models.media_features import PatchLayout
from encoder_service.pruners import PRUNERS
from encoder_service.server.default_pruning import PAPER, DefaultPruning
from encoder_service.server.requests import default_media_options, pruners_of
from encoder_service.server.wire_budget import fit_messages
from encoder_service.settings import EncoderSettings
from fovea import checkpoints
from fovea.errors import InternalError, InvalidRequest
from fovea.v1 import encoder_pb2, tensor_pb2
from fovea.wire import tensors
from fovea.wire.basis import WireBasis
from fovea.wire.formats import WIRE_FORMATS, dtype_name, names_accepted, plane_dtype
from fovea.wire.image_fits import IMAGE_FITS
from fovea.wire.pruner_info import write_spec

__all__ = ["WireChoice", "describe", "write_response"]

log = logging.getLogger("encoder_service")


@dataclass(frozen=True)
class WireChoice:
    """What a request says about the form in which its visual tokens travel.

    Attributes:
        dtype: Wire format; 0 with `max_bytes`: the widest that fits.
        max_bytes: Budget of bytes of all messages together; 0 for none.
        basis: Wire basis that is loaded.
    """

    dtype: tensor_pb2.DType
    max_bytes: int = 0
    basis: WireBasis | None = None


def write_response(
    encoded: Sequence[EncodedMedia],
    timing: BatchTiming,
    pruner: str,
    fingerprint: str,
    wire: WireChoice,
    *,
    explain: bool,
) -> encoder_pb2.EncodeResponse:
    """The response with the visual tokens of a request.

    Raises:
        InvalidRequest: A feature is too large for the wire format, or the tokens do not fit the budget of bytes.
        InternalError: A feature is NaN or infinite.
    """

    def write(dtype: tensor_pb2.DType, step: int | None = None) -> list[tensor_pb2.VisualTokens]:
        return [_visual_tokens(media, fingerprint, dtype, wire.basis, step) for media in encoded]

    def fitted() -> Sequence[tensor_pb2.VisualTokens]:
        features = [media.features for media in encoded]
        return fit_messages(write, features, wire.max_bytes, wire.dtype, wire.basis)

    response = encoder_pb2.EncodeResponse(
        pruner=pruner,
        num_tokens_total=[media.num_tokens_total for media in encoded],
        explanations=[_explanation(media) for media in encoded] if explain else [],
        timing=encoder_pb2.EncodeTiming(
            queue_ms=timing.queue_ms,
            decode_ms=timing.prepare_ms,
            forward_ms=timing.run_ms,
            batch_size=timing.batch_size,
        ),
        features_cached=[media.features_cached for media in encoded],
        viewed=[_box(media.layout.viewed) for media in encoded],
    )
    for message in fitted() if wire.max_bytes else write(wire.dtype):
        response.visual_tokens.add().CopyFrom(message)  # a message that is an argument is serialized and parsed
    return response


def _visual_tokens(
    media: EncodedMedia, fingerprint: str, wire_dtype: tensor_pb2.DType, basis: WireBasis | None, step: int | None
) -> tensor_pb2.VisualTokens:
    message = tensor_pb2.VisualTokens(
        positions=media.positions.tolist(),
        grid=_grid(media.layout),
        fingerprint=fingerprint,
        newline_after=media.newline_after.tolist(),
        kind=tensor_pb2.VISUAL_KIND_VIDEO if media.layout.is_video else tensor_pb2.VISUAL_KIND_IMAGE,
        seconds_per_frame=media.layout.seconds_per_frame,
        frame_times=media.layout.frame_times,
    )
    message.features.CopyFrom(_tensor(media.values, media.vectors, wire_dtype, basis, step))  # see `write_response`
    for plane in media.planes:
        message.planes.add().CopyFrom(_tensor(plane, media.vectors, plane_dtype(wire_dtype), basis, None))
    return message


def _tensor(
    values: TokenValues,
    vectors: TokenVectors,
    wire_dtype: tensor_pb2.DType,
    basis: WireBasis | None,
    step: int | None,
) -> tensor_pb2.Tensor:
    """Message with the features or a plane of an image or video, of which `vectors` are all."""
    if (on_device := converted(values)) is not None:
        return tensors.converted_message(on_device)
    assert is_float32(values)
    if not (finite := np.isfinite(values)).all():
        # Not the client's fault: a computation in half precision has overflowed, or a weight is broken.
        log.error("%d of %d features are not finite; --dtype bfloat16 has more room", (~finite).sum(), finite.size)
        raise InternalError("the encoder service computed features that are not finite")
    try:
        return tensors.to_message(values, wire_dtype, basis=basis, step=step)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"a feature of this image is too large for {dtype_name(wire_dtype)};"
            f" accepted: {', '.join(_formats_that_hold(vectors, basis))}",
            param="wire_dtype",
        ) from error


def _formats_that_hold(vectors: TokenVectors, basis: WireBasis | None) -> list[str]:
    names = []
    for name in names_accepted(has_basis=basis is not None):
        dtype = WIRE_FORMATS[name].dtype
        with contextlib.suppress(InvalidRequest):
            for i, values in enumerate(vectors):
                if is_float32(values):
                    tensors.to_message(values, plane_dtype(dtype) if i else dtype, basis=basis)
            names.append(name)
    return names


def _grid(layout: PatchLayout) -> tensor_pb2.Grid:
    return tensor_pb2.Grid(
        frames=layout.num_inputs, rows=layout.rows, columns=layout.columns, cls_per_frame=layout.cls_per_input
    )


def _box(box: Box) -> encoder_pb2.Box:
    return encoder_pb2.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom)


def _explanation(media: EncodedMedia) -> encoder_pb2.Explanation:
    return encoder_pb2.Explanation(
        task_map=[] if media.task_map is None else media.task_map.tolist(),
        saliency_map=[] if media.saliency_map is None else media.saliency_map.tolist(),
        merged_into=media.cluster_of_patch.tolist(),
    )


def describe(
    model: EncoderModel,
    settings: EncoderSettings,
    basis: WireBasis | None = None,
    defaults: DefaultPruning = PAPER,
) -> encoder_pb2.GetEncoderInfoResponse:
    """Description of the model, its pruners and the defaults of the service."""
    wire_basis = basis.digest.hex() if basis is not None else ""
    options = default_media_options(settings)
    return encoder_pb2.GetEncoderInfoResponse(
        model=settings.served_model_name or checkpoints.public_name(settings.model),
        family=model.family,
        fingerprint=model.fingerprint,
        text_tower_fingerprint=model.text_tower_fingerprint,
        grid=None if model.grid is None else _grid(PatchLayout(1, *model.grid)),
        hidden_size=model.hidden_size,
        pruners=[write_spec(pruner.spec) for name, pruner in PRUNERS.items() if name in pruners_of(model)],
        default_pruner=defaults.pruner,
        default_keep_ratio=defaults.keep_ratio,
        default_wire_dtype=tensors.parse_dtype(settings.wire_dtype),
        max_text_ids=model.max_text_ids,
        max_images=model.max_images,
        settings_fingerprint=model.settings_fingerprint + PRUNERS.fingerprint + wire_basis + options.fingerprint,
        max_videos=model.max_videos,
        max_frames=settings.max_video_frames if model.max_videos else 0,
        text_tokenizer=(
            encoder_pb2.TEXT_TOKENIZER_LANGUAGE_MODEL
            if model.reads_language_model_ids
            else encoder_pb2.TEXT_TOKENIZER_TEXT_TOWER
        ),
        wire_basis=wire_basis,
        image_fits=[IMAGE_FITS[fit] for fit in model.media.image_fits],
        default_image_fit=IMAGE_FITS[options.image_fit],
        newest_request_field=max(encoder_pb2.EncodeRequest.DESCRIPTOR.fields_by_number),
    )
