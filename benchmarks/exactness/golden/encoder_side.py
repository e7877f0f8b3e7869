"""Golden cases of methods that prune before the language model, and of the states of the towers that they share.

Each function takes the parameters of its cases by name, so an unknown parameter is an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.exactness.golden.case import Array, Context, GoldenCase
from benchmarks.exactness.golden.full_llm import read_visual_tokens
from encoder_service.models.clip_text import ClipTextTower
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.pruners import PRUNERS, hired, holov, prumerge, prumerge_plus, tile_mosaic, visionzip
from encoder_service.pruners.base import PrunedTokens, PrunerInput, TextFeatures, TokenOrigin, TowerFeatures
from encoder_service.pruners.desap import question_vector
from encoder_service.pruners.flowcut import FlowCut
from encoder_service.pruners.in_tower import LayerHook, TowerLayer
from encoder_service.pruners.selection import select_by_two_scores
from encoder_service.pruners.tower_outputs import (
    ALL_OUTPUTS,
    CLS_HIDDEN,
    KEYS,
    MEAN_KEYS_SECOND_LAST,
    SALIENCY_FIRST,
    SALIENCY_LAST,
    SALIENCY_ONE_HEAD,
    SALIENCY_SECOND_LAST,
)
from fovea.modeling.numerics import top_k

__all__ = ["METHODS"]

Arrays = dict[str, Array]


def _tower(context: Context) -> ClipVisionTower:
    return ClipVisionTower(context.clip.vision_model, context.clip.visual_projection)


@lru_cache(maxsize=8)
def _vision(context: Context, inputs_file: Path, image: int) -> TowerFeatures:
    """Tower output of one image of the inputs with everything that a pruner reads, computed once for all cases."""
    pixel_values = context.tensor(context.load(inputs_file)["pixel_values"][image : image + 1])
    features: TowerFeatures = _tower(context)(pixel_values, ALL_OUTPUTS).at(0)
    return features


@dataclass(frozen=True)
class _Run:
    """A case, with the towers of its context."""

    case: GoldenCase
    context: Context

    @property
    def inputs(self) -> Mapping[str, Array]:
        return self.context.inputs(self.case)

    def pixel_values(self) -> Tensor:
        """[1, 3, H, W] pixel values of the image."""
        return self.context.tensor(self.inputs["pixel_values"][:1])

    def vision(self, image: int = 0) -> TowerFeatures:
        """Tower output of one image of the inputs: 0 is the image and the base tile, the others are tiles."""
        return _vision(self.context, self.case.inputs_file, image)

    def text(self, name: str, *, eos_attention: bool = False) -> TextFeatures:
        """Text features of a question of the inputs."""
        clip = self.context.clip
        tower = ClipTextTower(clip.text_model, clip.text_projection)
        texts: TextFeatures = tower([self.inputs[f"text_ids_{name}"].tolist()], eos_attention=eos_attention)
        return texts.take(torch.tensor(0))

    def report(
        self, pruned: PrunedTokens, *, projected: Tensor | None = None, with_llm: bool = False, **more: Any
    ) -> Arrays:
        """The arrays of an encoder-side case.

        Args:
            pruned: Result of the method.
            projected: [K, D] visual tokens after the projector, for cases that compare them instead of `features`.
            with_llm: Whether the case also compares the states of the language model.
            more: Further arrays of the case.
        """
        features = pruned.features if projected is None else projected
        arrays = {"kept_index": pruned.origins, "features": features, "assign": pruned.cluster_of_patch, **more}
        if with_llm:
            visual_tokens = self.context.projector(features) if projected is None else projected
            arrays |= read_visual_tokens(self.context, self.inputs, visual_tokens)
        return _arrays(arrays)


def _arrays(values: Mapping[str, Any]) -> Arrays:
    return {name: torch.as_tensor(value).cpu().numpy() for name, value in values.items()}


def _encoder(run: _Run) -> Arrays:
    """States of the vision tower that several methods read."""
    vision = run.vision()
    return _arrays(
        {
            "x23": torch.cat([vision.outputs[CLS_HIDDEN][None], vision.hidden]),
            "x24": run.context.clip.vision_model(run.pixel_values()).last_hidden_state[0],
            "projected": run.context.projector(vision.hidden),
            "cls_attention_0": vision.outputs[SALIENCY_FIRST],
            "cls_attention_22": vision.outputs[SALIENCY_SECOND_LAST],
            "cls_attention_23": vision.outputs[SALIENCY_LAST],
        }
    )


def _text(run: _Run, *, text: str) -> Arrays:
    """Text tower output of a question."""
    features = run.text(text)
    assert features.is_token is not None
    return _arrays({"tokens": features.tokens[features.is_token], "query": question_vector(features.eos)})


def _desap(run: _Run, *, text: str, budget: int, with_llm: bool = False, **switches: Any) -> Arrays:
    """DeSAP with its formula exactly as printed: cosines keep their sign."""
    switches = {"attn_variant" if name == "variant" else name: value for name, value in switches.items()}
    bound = PRUNERS["desap"].bind({"fcma_cosines": "signed", **switches})
    question = run.text(text, eos_attention=bound.requirements.eos_attention)
    pruned = bound.prune(PrunerInput(run.vision(), budget, text=question))
    assert pruned.task_map is not None
    assert pruned.saliency_map is not None
    by_text, _ = select_by_two_scores(pruned.task_map, pruned.saliency_map, budget, switches.get("task_share", 0.5))
    return run.report(
        pruned,
        with_llm=with_llm,
        score_text=pruned.task_map,
        score_saliency=pruned.saliency_map,
        kept_by_text=by_text,
    )


def _visionzip(run: _Run, *, dominant: int, context: int, with_llm: bool = False) -> Arrays:
    vision = run.vision()
    pruned = visionzip.zip_tokens(
        vision.hidden,
        vision.outputs[CLS_HIDDEN],
        vision.outputs[SALIENCY_SECOND_LAST],
        vision.outputs[MEAN_KEYS_SECOND_LAST],
        num_dominant=dominant,
        num_context=context,
    )
    return run.report(pruned, with_llm=with_llm)


def _prumerge(
    run: _Run,
    *,
    keep: int | None = None,
    sampling: str | None = None,
    sample: int | None = None,
    with_llm: bool = False,
) -> Arrays:
    vision = run.vision()
    attention, num_patches = vision.outputs[SALIENCY_ONE_HEAD], vision.num_patches
    num_top = prumerge.num_outliers(attention) if keep is None else keep
    top = prumerge.most_attended(attention, num_top)
    match sampling, sample:
        case None, None:
            kept = top
        case "adaptive", None:
            kept = prumerge_plus.adaptive_sample(top, num_patches)
        case "fixed", None:
            kept = prumerge_plus.released_sample(top, num_patches)
        case "even", int():
            kept = prumerge_plus.even_sample(top, num_patches, sample)
        case _:
            raise ValueError(f"sampling {sampling!r} with sample {sample!r} is not known")
    dropped = prumerge.dropped_of_released(kept, num_patches)
    pruned = prumerge.merge_neighbours(vision.hidden, attention, vision.outputs[KEYS], kept, dropped)
    share = torch.tensor(num_top / num_patches, dtype=torch.float64)
    return run.report(pruned, with_llm=with_llm, share=share)


@dataclass(frozen=True)
class _Recorded:
    """A `FlowCut` that records how many patches are left after which layer."""

    flowcut: FlowCut
    schedule: list[tuple[int, int]] = field(compare=False, default_factory=list)

    def new_hook(self) -> LayerHook:
        return _RecordedFlow(self.flowcut.new_hook(), self.schedule)


@dataclass(frozen=True)
class _RecordedFlow:
    flow: LayerHook
    schedule: list[tuple[int, int]]

    def after_layer(self, layer: TowerLayer) -> Tensor | None:
        kept = self.flow.after_layer(layer)
        if kept is not None:
            self.schedule.append((layer.index, len(kept)))
        return kept


def _flowcut(run: _Run, *, budget: int, with_llm: bool = False) -> Arrays:
    """FlowCut's stage inside the tower."""
    recorded = _Recorded(FlowCut(budget))
    vision = _tower(run.context)(run.pixel_values(), frozenset(), recorded).at(0)
    pruned = PRUNERS["flowcut"].bind({}).prune(PrunerInput(vision, budget))
    return run.report(pruned, with_llm=with_llm, schedule=recorded.schedule)


def _holov(
    run: _Run, *, budget: int, crops: int, overflow: str, attention: str | None = None, with_llm: bool = False
) -> Arrays:
    if overflow not in ("zero", "redistribute"):
        raise ValueError(f"overflow {overflow!r} is not known; accepted: zero, redistribute")
    vision = run.vision()
    if attention not in (None, "synthetic"):
        raise ValueError(f"attention {attention!r} is not known; accepted: synthetic")
    if attention:
        scores = run.context.tensor(run.inputs["holov_attention"])
        vision = dataclasses.replace(vision, outputs={SALIENCY_SECOND_LAST: scores})
    bound = PRUNERS["holov"].bind({"crops": crops, "fidelity": overflow == "zero"})
    pruned = bound.prune(PrunerInput(vision, budget))
    # The authors fill up with zeros after the projector, which does not map zeros to zeros.
    projected = run.context.projector(pruned.features) * (pruned.origins != TokenOrigin.ZERO)[:, None]

    sizes = holov.crop_sizes(vision.num_patches, crops)
    granted, rank = holov.crop_quotas(vision.outputs[SALIENCY_SECOND_LAST], sizes, budget)
    if overflow == "redistribute":
        granted = holov.redistribute(granted, sizes, rank)
    return run.report(pruned, projected=projected, with_llm=with_llm, crop_quota=granted)


def _hired(run: _Run, *, tiles: int, **params: Any) -> Arrays:
    return _hired_tiles(run, tiles, **params) if tiles > 1 else _hired_image(run, **params)


def _hired_image(run: _Run, *, keep: int, with_llm: bool = False) -> Arrays:
    return run.report(PRUNERS["hired"].bind({}).prune(PrunerInput(run.vision(), keep)), with_llm=with_llm)


def _hired_tiles(
    run: _Run,
    num_tiles: int,
    *,
    rate: float,
    alpha: float,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    with_llm: bool = False,
) -> Arrays:
    """Base tile, then the mosaic without its padding. Marks are counted as in the authors' code."""
    tile_outputs = [run.vision(image) for image in range(num_tiles)]
    patch_grid = tile_outputs[0].grid
    sizes = [patch_grid[0] * patch_grid[1]] * num_tiles
    counts = hired.allocate_by_early_attention(
        tile_outputs[0].outputs[SALIENCY_FIRST],
        math.floor(sum(sizes) * rate),
        alpha=alpha,
        sizes=sizes,
        tile_of_patch=hired.tile_by_raster_index(sizes[0], num_tiles - 1),
        fidelity=True,
    )
    mask = torch.zeros(num_tiles, sizes[0], dtype=torch.bool)
    for tile, (output, count) in enumerate(zip(tile_outputs, counts, strict=True)):
        mask[tile, top_k(output.outputs[SALIENCY_SECOND_LAST], count).cpu()] = True
    shown = torch.cat(
        [torch.arange(mask.shape[1]), torch.from_numpy(tile_mosaic.mosaic(patch_grid, grid, image_size).ravel())]
    )
    kept = shown[mask.flatten()[shown]]
    features = torch.cat([output.hidden for output in tile_outputs])[kept.to(run.context.device)]
    # -1 for patches in the padding and for dropped ones.
    cluster_of_patch = torch.full((mask.numel(),), -1)
    cluster_of_patch[kept] = torch.arange(len(kept))
    return run.report(PrunedTokens(features, kept, cluster_of_patch), with_llm=with_llm, tile_mask=mask)


def _method(function: Callable[..., Arrays]) -> Callable[[GoldenCase, Context], Arrays]:
    return lambda case, context: function(_Run(case, context), **case.params)


METHODS: Final[Mapping[str, Callable[[GoldenCase, Context], Arrays]]] = {
    "encoder": _method(_encoder),
    "text": _method(_text),
    "desap": _method(_desap),
    "visionzip": _method(_visionzip),
    "prumerge": _method(_prumerge),
    "flowcut": _method(_flowcut),
    "holov": _method(_holov),
    "hired": _method(_hired),
}
