"""The graphs of an encoder: vision tower, text tower and pruner, for the batches that a service computes most.

They serve requests with one of `GRAPHED_PRUNERS`, default parameters and the service's default budget. All others are
computed as if there were no graphs. A request whose image is in the feature cache replays text tower and pruner alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from encoder_service import metrics
from encoder_service.engine.graphs.bucketed import Bucketed
from encoder_service.models.clip_text import ClipTextTower
from encoder_service.models.clip_vision import ClipVisionTower
from encoder_service.pruners import PRUNERS
from encoder_service.pruners.base import BoundPruner, PrunedTokens, PrunerInput, TextFeatures, TowerFeatures
from encoder_service.pruners.tower_outputs import TowerOutput
from fovea.modeling.capture import Capture
from fovea.modeling.capture_round import capture_all

__all__ = ["GRAPHED_PRUNERS", "MAX_GRAPHS", "EncoderGraphs", "GraphableModel", "batch_sizes"]

GRAPHED_PRUNERS: Final = ("desap", "fovea")
MAX_GRAPHS: Final = 24
_CAPTURE_S: Final = 60.0
_SHORT_TEXT: Final = 24
"""Length to which most questions are padded; longer ones to the tower's own maximum."""


class GraphableModel(Protocol):
    """Model whose towers can be captured: those of the LLaVA families.

    Attributes:
        vision_tower: Vision tower.
        text_tower: Text tower.
        grid: Rows and columns of the patches of an image; None where images differ, and no pruner is captured.
        text_vocab_size: Size of the text tower's vocabulary.
        device: Device of the towers.
        dtype: Compute dtype.
    """

    vision_tower: ClipVisionTower
    text_tower: ClipTextTower
    grid: tuple[int, int] | None
    text_vocab_size: int
    device: torch.device
    dtype: torch.dtype


def batch_sizes(max_batch_size: int) -> list[int]:
    """Batch sizes that are captured, at most four: one, an eighth and a half of the largest batch, and the largest."""
    return sorted({1, -(-max_batch_size // 8), -(-max_batch_size // 2), max_batch_size})


class EncoderGraphs:
    """Graphs of a model's towers and of pruners. They must be captured before the first request.

    Args:
        model: Model whose towers replay their graphs from then on.
        keep: Number of tokens of the service's default budget; None captures no pruner.
        max_batch_size: Largest number of tower inputs in a forward.
    """

    def __init__(self, model: GraphableModel, keep: int | None, max_batch_size: int) -> None:
        self._model = model
        self._keep = keep
        self._sizes = batch_sizes(max_batch_size)
        self._generator = torch.Generator(model.device).manual_seed(0)
        self._bound = [PRUNERS[name].bind({}) for name in GRAPHED_PRUNERS]
        self._pruners: dict[BoundPruner, Bucketed] = {}
        self.num_graphs = 0
        self.left_out: list[str] = []
        """Functions and batch sizes that have no graph."""

    def capture(self, capture: Capture) -> None:
        """Captures all graphs, the smallest batches first, until 24 are captured or 60 seconds have passed.

        See `capture_all` for what happens to a graph that is not right.
        """
        functions = self._functions()
        done = capture_all(
            (
                (f"{name} for {size}", functools.partial(function.add, size))
                for size in self._sizes
                for name, function in functions
            ),
            capture,
            max_graphs=MAX_GRAPHS,
            max_seconds=_CAPTURE_S,
        )
        self.num_graphs, self.left_out = done.num_graphs, done.left_out
        metrics.CUDA_GRAPHS.set(self.num_graphs)
        metrics.CUDA_GRAPH_BYTES.set(capture.nbytes)

    def prune(self, pruner: BoundPruner, inputs: PrunerInput) -> PrunedTokens:
        """Result of the pruner, from its graph where that can be."""
        function, tensors = self._pruners.get(pruner), self._tensors(pruner, inputs)
        outputs = None if function is None or tensors is None else function(*tensors)
        if outputs is None:
            return pruner.prune(inputs)
        features, origins, cluster_of_patch, task_map, saliency_map = outputs
        return PrunedTokens(features, origins, cluster_of_patch, task_map, saliency_map)

    def _functions(self) -> list[tuple[str, Bucketed]]:
        """Functions to capture with their names. Towers and `prune` call them from now on, where a bucket fits."""
        model, named = self._model, list[tuple[str, Bucketed]]()
        outputs = sorted(set[TowerOutput]().union(*(bound.requirements.outputs for bound in self._bound)))
        tower = Bucketed(lambda pixels: model.vision_tower.compute(pixels, outputs), lambda size: [self._pixels(size)])
        model.vision_tower.graphs[frozenset(outputs)] = tower
        named.append(("the vision tower", tower))
        for length in sorted({min(_SHORT_TEXT, model.text_tower.max_positions), model.text_tower.max_positions}):
            text = Bucketed(model.text_tower.compute, functools.partial(self._ids, length))
            model.text_tower.graphs[length] = text
            named.append((f"texts of {length} tokens", text))
        if self._keep is not None and model.grid is not None:
            for bound in self._bound:
                function = Bucketed(self._pruner(bound, model.grid, self._keep), self._example(bound))
                self._pruners[bound] = function
                named.append((bound.name, function))
        return named

    def _pruner(self, bound: BoundPruner, grid: tuple[int, int], keep: int) -> Callable[..., tuple[Tensor, ...]]:
        """The pruner as a function of tensors, see `_tensors`."""
        outputs = sorted(bound.requirements.outputs)

        def compute(hidden: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            values, (tokens, eos, is_word, is_token) = rest[: len(outputs)], rest[len(outputs) :]
            vision = TowerFeatures(hidden, grid, dict(zip(outputs, values, strict=True)))
            pruned = bound.prune(PrunerInput(vision, keep, TextFeatures(tokens, eos, is_word, None, is_token)))
            maps = (pruned.task_map, pruned.saliency_map)
            return pruned.features, pruned.origins, pruned.cluster_of_patch, *(one for one in maps if one is not None)

        return compute

    def _tensors(self, pruner: BoundPruner, inputs: PrunerInput) -> tuple[Tensor, ...] | None:
        """Tensors of an input, the text padded to the longest; None for an input that no graph serves."""
        vision, text = inputs.vision, inputs.text
        if (
            pruner not in self._pruners
            or inputs.keep != self._keep
            or vision.grid != self._model.grid
            or vision.kept_in_tower is not None
        ):
            return None
        if text is None or text.is_token is None or text.is_window is not None:
            return None
        missing = self._model.text_tower.max_positions - text.tokens.shape[1]
        if missing < 0:
            return None
        return (
            vision.hidden,
            *(vision.outputs[output] for output in sorted(pruner.requirements.outputs)),
            pad(text.tokens, (0, 0, 0, missing)),
            text.eos,
            pad(text.is_word, (0, missing)),
            pad(text.is_token, (0, missing)),
        )

    def _example(self, bound: BoundPruner) -> Callable[[int], Sequence[Tensor]]:
        """Random inputs of a pruner: the features of noise and of random texts."""

        def example(size: int) -> Sequence[Tensor]:
            model = self._model
            outputs = sorted(bound.requirements.outputs)
            hidden, *values = model.vision_tower.compute(self._pixels(size), outputs)
            length = model.text_tower.max_positions
            tokens, eos = model.text_tower.compute(*self._ids(length, size))
            is_token = torch.ones(size, length, dtype=torch.bool, device=model.device)
            is_word = is_token.clone()
            is_word[:, 0] = is_word[:, -1] = False
            return hidden, *values, tokens, eos[:, None], is_word, is_token

        return example

    def _pixels(self, size: int) -> Tensor:
        model = self._model
        side = int(model.vision_tower.vision_model.config.image_size)
        noise = torch.randn(size, 3, side, side, generator=self._generator, device=model.device)
        return noise.to(model.dtype)

    def _ids(self, length: int, size: int) -> tuple[Tensor, Tensor]:
        vocab, device = self._model.text_vocab_size, self._model.device
        ids = torch.randint(vocab, (size, length), generator=self._generator, device=device)
        return ids, torch.full((size,), length - 1, device=device)
