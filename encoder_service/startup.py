"""Loading of the model, and what computes on it: processes that decode media, and the batcher."""

from __future__ import annotations

import importlib
import logging
from typing import Final

from encoder_service import models
from encoder_service.engine.batching import Batcher
from encoder_service.engine.engine import EncoderEngine
from encoder_service.engine.executor import EncoderExecutor
from encoder_service.engine.feature_cache import FeatureCache
from encoder_service.engine.graphs.preparation import prepare
from encoder_service.media.decoding import media_pool
from encoder_service.media.video_containers import REASON_WITHOUT_PYAV, has_pyav
from encoder_service.media.video_limits import VideoLimits
from encoder_service.models.base import EncoderModel, LoadOptions
from encoder_service.pruners import PRUNERS
from encoder_service.server.default_pruning import DefaultPruning, default_pruning, find_recommendation
from encoder_service.server.requests import check_defaults, check_recommendation
from encoder_service.server.served_model import ServedModel
from encoder_service.settings import EncoderSettings
from fovea.modeling.compute import set_threads
from fovea.modeling.device_memory import report_device_memory
from fovea.processes import fork_server
from fovea.processes.cores import available_cores
from fovea.wire import basis_file
from fovea.wire.basis_file import BasisError
from fovea.wire.formats import WIRE_FORMATS

__all__ = ["fork_workers", "load"]

log = logging.getLogger(__name__)

_DECODING: Final = "encoder_service.media.decoding"
_PYAV: Final = "av"


def fork_workers() -> None:
    """Forks the process that the workers are forked from. Call it before this process starts a thread."""
    modules = _worker_modules()
    for module in modules:
        importlib.import_module(module)  # the workers share its memory
    fork_server.fork_now(*modules)


def _worker_modules() -> list[str]:
    return [_DECODING, _PYAV] if has_pyav() else [_DECODING]


def load(settings: EncoderSettings) -> ServedModel:
    """Loads the towers of a checkpoint and builds what computes on them, without starting it.

    Raises:
        CheckpointError: The checkpoint is not supported, or does not support the settings.
        FileNotFoundError: There is no such checkpoint.
        BasisError: The wire basis cannot be used.
        PluginError: A pruner of another package cannot be used.
    """
    PRUNERS.load()
    fork_server.preload(*_worker_modules())  # unless `fork_workers` was called
    model = _load_model(settings)
    if model.max_videos and not has_pyav():
        log.warning("video files are refused, as %s; videos as lists of frames are accepted", REASON_WITHOUT_PYAV)
    basis = basis_file.find(settings.wire_basis, settings.model, settings.revision, model.hidden_size)
    if WIRE_FORMATS[settings.wire_dtype].needs_basis and basis is None:
        raise BasisError(
            f"--wire-dtype {settings.wire_dtype} needs a wire basis: --wire-basis, or wire.basis in the checkpoint"
        )
    report_device_memory(model.device)
    pruning = _default_pruning(settings, model)
    engine = _build_engine(settings, model, pruning)
    pool = media_pool(
        engine.decoder, size=settings.decode_workers or available_cores(), max_bytes=settings.max_decode_bytes
    )
    batcher = Batcher(
        EncoderExecutor(engine, pool, image_timeout_s=settings.image_decode_timeout_s),
        max_batch_size=settings.max_batch_size,
        max_batch_delay_s=settings.max_batch_delay_ms / 1000,
        max_queue_size=settings.max_queue_size,
        max_queue_time_s=settings.max_queue_time_s,
    )
    return ServedModel(model, pool, batcher, basis, pruning, max_decode_wait_s=settings.max_decode_wait_s)


def _load_model(settings: EncoderSettings) -> EncoderModel:
    model = models.load(
        settings.model,
        LoadOptions(
            text_tower=settings.text_tower,
            revision=settings.revision,
            device=settings.device,
            dtype=settings.dtype,
            attn_implementation=settings.attn_implementation,
            compile=settings.compile,
            reduces_jpeg=settings.jpeg_reduced_scale == "on",
        ),
    )
    check_defaults(settings, model)
    set_threads(settings.num_threads, model.num_parameters)  # before layers are compiled, which depend on it
    return model


def _default_pruning(settings: EncoderSettings, model: EncoderModel) -> DefaultPruning:
    recommended = find_recommendation(settings.model, settings.revision)
    if recommended is not None:
        check_recommendation(recommended, model)
    return default_pruning(settings, recommended)


def _build_engine(settings: EncoderSettings, model: EncoderModel, pruning: DefaultPruning) -> EncoderEngine:
    return EncoderEngine(
        model,
        FeatureCache(settings.feature_cache_bytes),
        max_batch_size=settings.max_batch_size,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        video_limits=VideoLimits(
            max_bytes=settings.max_video_bytes,
            max_frames=settings.max_video_frames,
            max_frame_pixels=settings.max_video_frame_pixels,
            max_pixels=settings.max_video_pixels,
            max_seconds=settings.max_video_seconds,
            timeout_s=settings.video_decode_timeout_s,
        ),
        run_pruner=prepare(model, settings, pruning.keep_ratio),
    )
