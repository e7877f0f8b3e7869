"""CUDA graphs of small prefills and of decoding steps.

A decoding step has a graph by class of slots, number of slots and attended positions, a prefill by number and length of
its prompts. Other sizes are computed without a graph. Their numbers agree up to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from fovea.modeling.capture import Capture, Captured, agrees
from fovea.modeling.capture_round import CaptureResult, capture_all
from llm_service import metrics
from llm_service.engine.decode_buckets import attended_lengths, step_slot_counts
from llm_service.engine.slot_cache import SlotCache
from llm_service.engine.slot_decoding import SlotDecoder
from llm_service.engine.slot_prefill import PrefillTensors, SlotPrefill

__all__ = ["MAX_GRAPHS", "SlotGraphs", "prefill_sizes"]

MAX_GRAPHS: Final = 144
_CAPTURE_S: Final = 90.0

# Limits the number of graphs. Steps over more positions run without one.
_MOST_POSITIONS: Final = 4096
# Above 1,024 tokens a prefill fills a GPU by itself.
_MOST_PREFILL_TOKENS: Final = 1024
_PREFILL_COUNTS: Final = (1, 2, 3, 4, 6, 8)
_PREFILL_LENGTHS: Final = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
# A graph computes its padding. A prefill may take one of at most 1.5 times its tokens, which are padded to its longest
# prompt, or of so few tokens that launches take longer than the computation.
_MOST_PADDING: Final = 0.5
_LAUNCH_BOUND_TOKENS: Final = 256


def prefill_sizes(longest: int) -> list[tuple[int, int]]:
    """Numbers and lengths of prompts of the prefills that are captured, the fewest tokens first.

    Args:
        longest: Positions of the longest slot.
    """
    lengths = [length for length in _PREFILL_LENGTHS if length <= longest]
    sizes = [(rows, length) for length in lengths for rows in _PREFILL_COUNTS if rows * length <= _MOST_PREFILL_TOKENS]
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


@dataclass(frozen=True)
class _PrefillGraph:
    tensors: PrefillTensors
    captured: Captured

    @property
    def size(self) -> tuple[int, int]:
        rows, length = self.tensors.inputs_embeds.shape[:2]
        return rows, length


class SlotGraphs:
    """Graphs of one model's slots. They must be captured before the first request.

    Args:
        cache: Keys and values of all slots.
        prefill: Prefills into slots.
        decoders: Decoders of the classes, in ascending order of length.
        example: Prefill inputs of one row and one token, for their shapes, dtypes and device.
        vocab_size: Number of token ids.
    """

    def __init__(
        self,
        cache: SlotCache,
        prefill: SlotPrefill,
        decoders: Sequence[SlotDecoder],
        example: PrefillTensors,
        vocab_size: int,
    ) -> None:
        self._cache = cache
        self._prefill = prefill
        self._decoders = decoders
        self._example = example
        self._vocab_size = vocab_size
        self._generator = torch.Generator().manual_seed(0)
        self._embeds = torch.empty(0)  # embeddings of the inputs of all prefills, from the capture on
        self._planes = torch.empty(0)  # their DeepStack planes, of families that have them
        self._decode_graphs: dict[tuple[int, int, int], Captured] = {}
        self._prefill_graphs: list[_PrefillGraph] = []

    @torch.inference_mode()
    def capture(self, capture: Capture) -> CaptureResult:
        """Captures graphs until a limit is reached: steps of short slots first, then prefills of few tokens.

        See `capture_all` for what happens to a graph that is not right. The slots hold random numbers afterwards.
        """
        # One memory for all prefills, as their replays do not overlap.
        width = self._example.inputs_embeds.shape[2]
        self._embeds = self._example.inputs_embeds.new_zeros(_MOST_PREFILL_TOKENS, width)
        if self._example.planes is not None:
            self._planes = self._embeds.new_zeros(len(self._example.planes), *self._embeds.shape)
        done = capture_all(
            [*self._decode_captures(), *self._prefill_captures()],
            capture,
            max_graphs=MAX_GRAPHS,
            max_seconds=_CAPTURE_S,
        )
        metrics.CUDA_GRAPHS.set(done.num_graphs)
        metrics.CUDA_GRAPH_BYTES.set(capture.nbytes)
        return done

    def decode(self, decoder: SlotDecoder, num_slots: int, length: int) -> Tensor:
        """Logits of at least the first `num_slots` slots, valid until the next step; see `SlotDecoder.forward`."""
        fitting = [
            (rows, positions)
            for class_index, rows, positions in self._decode_graphs
            if class_index == decoder.class_index and rows >= num_slots and positions >= length
        ]
        if not fitting:
            return decoder.forward(num_slots, length)
        captured = self._decode_graphs[(decoder.class_index, *min(fitting))]
        captured.replay()
        return captured.outputs[0]

    def prefill(self, tensors: PrefillTensors) -> Tensor:
        """[b, V] logits of the last tokens of prompts; see `SlotPrefill.forward`."""
        rows, length = tensors.inputs_embeds.shape[:2]
        most = max(_LAUNCH_BOUND_TOKENS, int(rows * length * (1 + _MOST_PADDING)))
        fitting = [
            graph
            for graph in self._prefill_graphs
            if graph.size[0] >= rows and graph.size[1] >= length and graph.size[0] * graph.size[1] <= most
        ]
        if not fitting:
            return self._prefill.forward(tensors)
        graph = min(fitting, key=lambda one: one.size[0] * one.size[1])
        _fill(graph.tensors, tensors)
        graph.captured.replay()
        return graph.captured.outputs[0][:rows].clone()

    def _decode_captures(self) -> Iterator[tuple[str, functools.partial[bool]]]:
        shorter = 0
        for decoder in self._decoders:
            slot_class = decoder.slot_class
            # Shorter sequences of this class replay its smallest graph.
            lengths = [one for one in attended_lengths(slot_class.length) if shorter <= one <= _MOST_POSITIONS]
            shorter = slot_class.length
            for rows in step_slot_counts(slot_class.count):
                for length in lengths:
                    name = f"a step of {rows} slots, {length} of {slot_class.length} positions"
                    yield name, functools.partial(self._add_decode, decoder, rows, length)

    def _add_decode(self, decoder: SlotDecoder, rows: int, length: int, capture: Capture) -> bool:
        decoder.fill_randomly(length, self._vocab_size, self._generator)
        captured = capture(lambda: (decoder.forward(rows, length),))
        decoder.fill_randomly(length, self._vocab_size, self._generator)
        if not self._is_right(captured, lambda: decoder.forward(rows, length), decoder.write_index(rows)):
            return False
        self._decode_graphs[decoder.class_index, rows, length] = captured
        return True

    def _prefill_captures(self) -> Iterator[tuple[str, functools.partial[bool]]]:
        longest = self._decoders[-1].slot_class.length
        for rows, length in prefill_sizes(longest):
            yield f"a prefill of {rows} prompts of {length} tokens", functools.partial(self._add_prefill, rows, length)

    def _add_prefill(self, rows: int, length: int, capture: Capture) -> bool:
        random = self._random_tensors(rows, length)
        embeds = self._embeds[: rows * length].view(random.inputs_embeds.shape)
        tensors = replace(random, inputs_embeds=embeds.copy_(random.inputs_embeds))
        if random.planes is not None:
            planes = self._planes.flatten()[: random.planes.numel()].view(random.planes.shape)
            tensors = replace(tensors, planes=planes.copy_(random.planes))
        captured = capture(lambda: (self._prefill.forward(tensors),))
        _fill(tensors, self._random_tensors(rows, length))
        write_index = self._prefill.write_index(tensors)
        if not self._is_right(captured, lambda: self._prefill.forward(tensors), write_index):
            return False
        self._prefill_graphs.append(_PrefillGraph(tensors, captured))
        return True

    def _is_right(self, captured: Captured, forward: Callable[[], Tensor], write_index: Tensor) -> bool:
        """Whether a replay gives the logits of the forward pass, and writes the same keys and values."""
        self._cache.clear_vectors(write_index)
        captured.replay()
        replayed = (*captured.outputs, self._cache.vectors(write_index))
        return agrees(replayed, (forward(), self._cache.vectors(write_index)))

    def _random_tensors(self, rows: int, length: int) -> PrefillTensors:
        """Random prompts, written one behind the other into the slot of the example while they fit."""
        embeds, position_ids = self._example.inputs_embeds, self._example.position_ids
        shape = (rows, length, embeds.shape[-1])
        planes = self._example.planes
        lengths = torch.randint(1, length + 1, (rows,), generator=self._generator)
        placement = self._example.placement.repeat(1, rows)
        offsets = length * torch.arange(rows)
        lengths[offsets + length > self._decoders[-1].slot_class.length] = 0
        placement[0] += offsets.to(placement.device)
        placement[2] = lengths.to(placement.device)
        return PrefillTensors(
            self._noise(shape),
            torch.arange(length, device=position_ids.device).repeat(*position_ids.shape[:-2], rows, 1),
            placement,
            None if planes is None else self._noise((len(planes), *shape)),
        )

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        """Random numbers as large as the embeddings."""
        embeds = self._example.inputs_embeds
        noise = torch.randn(shape, generator=self._generator)
        return (embeds.std() * noise.to(embeds.device)).to(embeds.dtype)


def _fill(static: PrefillTensors, given: PrefillTensors) -> None:
    """Writes inputs into those of a graph. Further prompts of the graph have no tokens and are not written."""
    rows, length = given.inputs_embeds.shape[:2]
    static.inputs_embeds[:rows, :length].copy_(given.inputs_embeds)
    static.inputs_embeds[:rows, length:].zero_()  # an earlier prompt may have left numbers that are not finite
    if static.planes is not None and given.planes is not None:
        static.planes[:, :rows, :length].copy_(given.planes)
        static.planes[:, :rows, length:].zero_()
    static.position_ids[..., :rows, :length].copy_(given.position_ids)
    static.placement[:, :rows].copy_(given.placement)
    static.placement[2, rows:].zero_()
