"""Conversion of EncodeRequest messages to requests of the engine, with a check of every field."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from google.protobuf import json_format

from encoder_service.engine.request_media import EncodeRequest
from encoder_service.engine.wire_values import DeviceFormat, device_format
from encoder_service.media.video_containers import REASON_WITHOUT_PYAV, has_pyav
from encoder_service.media.videos import FrameList, VideoFile, VideoItem
from encoder_service.models.base import EncoderModel
from encoder_service.models.media import MediaOptions
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, FeatureRequirements
from encoder_service.server.default_pruning import FILE, PAPER, DefaultPruning
from encoder_service.server.wire_budget import max_tokens_for_bytes
from encoder_service.settings import EncoderSettings
from fovea.budget import Budget
from fovea.errors import InvalidRequest, NotFound, UnsupportedMedia
from fovea.modeling.errors import CheckpointError
from fovea.parameters import InvalidParameter
from fovea.v1 import encoder_pb2
from fovea.wire.basis import WireBasis
from fovea.wire.budgets import read_budget
from fovea.wire.cache_salts import read_cache_salt
from fovea.wire.formats import WIRE_FORMATS, format_of, names_accepted
from fovea.wire.image_fits import image_fit_of

__all__ = ["check_defaults", "check_recommendation", "default_media_options", "pruners_of", "read_request"]

# Limits the cost of one question in the text tower to 110 windows of 75 ids. The gateway's longest question, 8,000
# characters, fits if it is prose. It may not fit in scripts and symbols with several ids a character, such as emoji.
_MAX_TEXT_IDS: Final = 8192
_MAX_SECONDS_PER_FRAME: Final = 3600.0


def read_request(
    request: encoder_pb2.EncodeRequest,
    model: EncoderModel,
    settings: EncoderSettings,
    basis: WireBasis | None = None,
    defaults: DefaultPruning = PAPER,
) -> EncodeRequest:
    """The engine's request for a message.

    Args:
        request: message.
        model: model that the service serves.
        settings: settings of the service.
        basis: wire basis that is loaded.
        defaults: pruner and budget of messages that name none.

    Raises:
        InvalidRequest: A field has a value that is not accepted.
        NotFound: No such pruner.
        UnsupportedMedia: There is a video file, and this installation cannot decode one.
    """
    _check_counts(len(request.images), len(request.videos), model)
    _check_wire_dtype(request, has_basis=basis is not None)
    pruner = _read_pruner(request, model, defaults)
    budget = _read_budget(request, pruner, defaults)
    return EncodeRequest(
        images=tuple(request.images),
        text_ids=_read_text(request.text_ids, model),
        pruner=pruner,
        videos=tuple(_read_video(video, settings) for video in request.videos),
        joins_frames=_read_video_budget(request, model, pruner),
        budget=budget.capped(_read_max_tokens(request, model, basis)),
        wire_format=_read_wire_format(request, settings),
        media_options=_read_media_options(request, model, settings),
        cache_salt=read_cache_salt(request),
    )


def default_media_options(settings: EncoderSettings) -> MediaOptions:
    """Options of the preprocessing for requests that name none."""
    return MediaOptions(image_fit=settings.image_fit)


def check_defaults(settings: EncoderSettings, model: EncoderModel) -> None:
    """Checks that the model accepts the settings for requests that name nothing.

    Raises:
        CheckpointError: The model does not accept one of them.
    """
    if settings.image_fit not in model.media.image_fits:
        raise CheckpointError(f"--image-fit {settings.image_fit} is not accepted: {_describe_image_fits(model)}")
    if settings.pruner in PRUNERS and settings.pruner not in pruners_of(model):
        raise CheckpointError(f"--pruner {settings.pruner} (ENCODER_PRUNER) {_describe_pruners(model)}")


def check_recommendation(recommended: DefaultPruning, model: EncoderModel) -> None:
    """Checks that the model has what the recommended pruner reads.

    Raises:
        CheckpointError: The model lacks what the pruner reads.
    """
    if recommended.pruner not in pruners_of(model):
        raise CheckpointError(f"{FILE} of the checkpoint: pruner {recommended.pruner} {_describe_pruners(model)}")


def _read_media_options(
    request: encoder_pb2.EncodeRequest, model: EncoderModel, settings: EncoderSettings
) -> MediaOptions:
    options = default_media_options(settings)
    if request.image_fit:
        fit = image_fit_of(request.image_fit)
        if fit is None or fit not in model.media.image_fits:
            raise InvalidRequest(
                f"image_fit {fit or request.image_fit} is not accepted: {_describe_image_fits(model)}",
                param="image_fit",
            )
        options = dataclasses.replace(options, image_fit=fit)
    return options


def _describe_image_fits(model: EncoderModel) -> str:
    return f"family {model.family}, with this checkpoint's image processor, takes {', '.join(model.media.image_fits)}"


def _check_wire_dtype(request: encoder_pb2.EncodeRequest, *, has_basis: bool) -> None:
    if not request.wire_dtype:
        return
    wire_format = format_of(request.wire_dtype)
    if wire_format is None:
        raise InvalidRequest(f"wire_dtype is not one of {', '.join(WIRE_FORMATS)}", param="wire_dtype")
    if wire_format.needs_basis and not has_basis:
        raise InvalidRequest(
            f"wire_dtype {wire_format.name} needs a wire basis, and this encoder service has none;"
            f" accepted: {', '.join(names_accepted(has_basis=False))}",
            param="wire_dtype",
        )


def _read_wire_format(request: encoder_pb2.EncodeRequest, settings: EncoderSettings) -> DeviceFormat:
    """Wire format to convert to on the device. What fits a budget of bytes is known only when the tokens are."""
    wire_format = format_of(request.wire_dtype) or WIRE_FORMATS[settings.wire_dtype]
    return "float32" if request.max_wire_bytes else device_format(wire_format.name)


def _read_max_tokens(request: encoder_pb2.EncodeRequest, model: EncoderModel, basis: WireBasis | None) -> int | None:
    """Upper bound on the visual tokens of each image or video that `max_wire_bytes` implies."""
    if not request.max_wire_bytes:
        return None
    return max_tokens_for_bytes(
        request.max_wire_bytes,
        num_media=len(request.images) + len(request.videos),
        channels=model.hidden_size,
        fingerprint=model.fingerprint,
        grid=None if request.videos else model.grid,
        wire_dtype=request.wire_dtype,
        basis=basis,
        num_planes=model.num_planes,
    )


def _check_counts(num_images: int, num_videos: int, model: EncoderModel) -> None:
    if num_videos > model.max_videos:
        accepted = (
            f"at most {model.max_videos} are accepted in one question" if model.max_videos else "none are accepted"
        )
        raise InvalidRequest(f"{num_videos} videos; family {model.family}: {accepted}", param="videos")
    if num_images > model.max_images or not num_images + num_videos:
        videos = f", or up to {model.max_videos} videos," if model.max_videos else ""
        raise InvalidRequest(
            f"{num_images} images; 1 to {model.max_images}{videos} are accepted in one question", param="images"
        )


def _read_video(video: encoder_pb2.Video, settings: EncoderSettings) -> VideoItem:
    max_frames = settings.max_video_frames
    match video.WhichOneof("source"):
        case "file":
            if video.num_frames > max_frames:
                raise InvalidRequest(
                    f"num_frames {video.num_frames} is not accepted; 1 to {max_frames}, or 0 for the model's own"
                    " number",
                    param="num_frames",
                )
            if not has_pyav():
                raise UnsupportedMedia(
                    f"this encoder service cannot decode video files ({REASON_WITHOUT_PYAV}); accepted: the frames of a"
                    " video as images",
                    param="video",
                )
            return VideoFile(video.file, video.num_frames)
        case "frames":
            if video.num_frames:
                raise InvalidRequest("num_frames goes with a file; all frames of a list are taken", param="num_frames")
            if not 1 <= len(video.frames.images) <= max_frames:
                raise InvalidRequest(
                    f"{len(video.frames.images)} frames of a video; 1 to {max_frames} are accepted", param="videos"
                )
            if not 0 <= video.frames.seconds_per_frame <= _MAX_SECONDS_PER_FRAME:  # also refuses NaN
                raise InvalidRequest(
                    f"seconds_per_frame is not a number of 0 to {_MAX_SECONDS_PER_FRAME:g}", param="seconds_per_frame"
                )
            return FrameList(tuple(video.frames.images), video.frames.seconds_per_frame)
    raise InvalidRequest("a video has neither a file nor frames; one of them is needed", param="videos")


def _read_video_budget(request: encoder_pb2.EncodeRequest, model: EncoderModel, pruner: BoundPruner) -> bool:
    """Whether all frames of a video share one budget."""
    if request.video_budget not in encoder_pb2.VideoBudget.values():
        raise InvalidRequest("video_budget is not one of per_frame, whole", param="video_budget")
    is_whole = request.video_budget == encoder_pb2.VIDEO_BUDGET_WHOLE
    if is_whole and pruner.requirements.in_tower is not None:
        others = [name for name in pruners_of(model) if PRUNERS[name].bind({}).requirements.in_tower is None]
        raise InvalidRequest(
            f"pruner {pruner.name} works inside the vision tower, one frame at a time: video_budget per_frame is"
            f" accepted; whole with {', '.join(others)}",
            param="video_budget",
        )
    return is_whole


def _read_text(ids: Sequence[int], model: EncoderModel) -> tuple[int, ...]:
    if len(ids) > _MAX_TEXT_IDS:
        raise InvalidRequest(
            f"the question has {len(ids)} ids of the text tower's tokenizer (BOS and EOS included);"
            f" at most {_MAX_TEXT_IDS} are accepted",
            param="text_ids",
        )
    if ids and max(ids) >= model.text_vocab_size:
        raise InvalidRequest(
            f"text id {max(ids)} is not below {model.text_vocab_size}, the text tower's vocabulary", param="text_ids"
        )
    return tuple(ids)


def _read_pruner(request: encoder_pb2.EncodeRequest, model: EncoderModel, defaults: DefaultPruning) -> BoundPruner:
    name = request.pruner or defaults.pruner
    if name not in PRUNERS:
        raise NotFound(f"there is no pruner {name!r:.80}; accepted: {', '.join(pruners_of(model))}", param="pruner")
    try:
        values = json_format.MessageToDict(request.pruner_params)
    except (ValueError, json_format.Error) as error:
        raise InvalidRequest("pruner_params: NaN and infinity are not accepted", param="pruner_params") from error
    try:
        pruner = PRUNERS[name].bind(values)
    except InvalidParameter as error:
        raise InvalidRequest(f"pruner {name}: {error}", param="pruner_params") from error
    if not _serves(model, pruner.requirements):
        raise InvalidRequest(f"pruner {name}, with these parameters, {_describe_pruners(model)}", param="pruner")
    return pruner


def _describe_pruners(model: EncoderModel) -> str:
    return f"requires features that family {model.family} does not have; accepted: {', '.join(pruners_of(model))}"


def _serves(model: EncoderModel, requirements: FeatureRequirements) -> bool:
    """Whether a model computes the features that a pruner requires."""
    if requirements.eos_attention and model.reads_language_model_ids:  # there is no text tower with attention
        return False
    return requirements.outputs <= model.outputs and (requirements.in_tower is None or model.prunes_in_tower)


def pruners_of(model: EncoderModel) -> list[str]:
    """Names of the pruners that work on this family with their default parameters."""
    return [name for name, pruner in PRUNERS.items() if _serves(model, pruner.bind({}).requirements)]


def _read_budget(request: encoder_pb2.EncodeRequest, pruner: BoundPruner, defaults: DefaultPruning) -> Budget:
    """The budget of a message or the default, without `max_tokens`."""
    budget = read_budget(request)
    if budget is None:  # with a budget of bytes alone, as many tokens are kept as fit
        return Budget.ratio(1.0 if request.max_wire_bytes else defaults.keep_ratio)
    if budget.is_auto and pruner.pruner.choose_keep is None:
        able = ", ".join(name for name, other in PRUNERS.items() if other.choose_keep is not None)
        raise InvalidRequest(
            f"pruner {pruner.name} cannot choose its budget; give keep_tokens or keep_ratio, or take {able}",
            param="keep_tokens",
        )
    return budget
