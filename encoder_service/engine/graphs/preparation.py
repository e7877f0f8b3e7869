"""What a GPU service does with a loaded model before it is ready: compiled layers run once, and graphs are captured."""

from __future__ import annotations

import logging
import time

import torch

from encoder_service.engine.graphs.encoder_graphs import EncoderGraphs, batch_sizes
from encoder_service.engine.media_pruning import RunPruner, run_pruner
from encoder_service.models.base import EncoderModel
from encoder_service.models.clip_encoder import ClipEncoder
from encoder_service.settings import EncoderSettings
from fovea.budget import Budget
from fovea.modeling.capture import CudaCapture

__all__ = ["prepare"]

log = logging.getLogger(__name__)


def prepare(model: EncoderModel, settings: EncoderSettings, keep_ratio: float) -> RunPruner:
    """Warms compiled layers up and captures graphs, as the settings say.

    Args:
        model: model that the service serves.
        settings: settings of the service.
        keep_ratio: budget for which graphs are captured, as a share of the visual tokens.

    Returns:
        How pruners run from then on.
    """
    if not isinstance(model, ClipEncoder):
        if settings.cuda_graphs == "auto":
            log.warning("family %s is computed without CUDA graphs", model.family)
        return run_pruner
    if settings.compile:
        _warm_up(model, settings.max_batch_size)
    if settings.cuda_graphs == "off" or model.device.type != "cuda":
        return run_pruner
    keep = None
    if model.grid is not None:
        keep = Budget.ratio(keep_ratio).resolve(model.grid[0] * model.grid[1])
    graphs = EncoderGraphs(model, keep, settings.max_batch_size)
    graphs.capture(CudaCapture(model.device))
    return graphs.prune


@torch.inference_mode()
def _warm_up(model: ClipEncoder, max_batch_size: int) -> None:
    """Runs the compiled layers once for each size of batch that graphs have, and logs the seconds."""
    start = time.perf_counter()
    side = int(model.vision_tower.vision_model.config.image_size)
    for size in batch_sizes(max_batch_size):
        model.vision_tower.compute(torch.zeros(size, 3, side, side, device=model.device, dtype=model.dtype), ())
    log.info("the layers of the vision tower are compiled, in %.1f s", time.perf_counter() - start)
