"""Pruned images and videos of a batch: the conversion to wire formats on the device, the copy to the CPU, assembly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.engine.encoded_media import EncodedMedia, UnitTokens, assemble
from encoder_service.engine.pruning_units import PruningTask
from encoder_service.engine.unit_budgets import MediaToPrune
from encoder_service.engine.wire_values import DeviceFormat, TokenValues, convert, sends_mean, token_values
from encoder_service.pruners.base import PrunedTokens
from fovea.modeling.transfers import to_device, to_host

__all__ = ["FLOAT32", "Conversion", "PrunedMedia", "PrunedUnit", "copy_to_host"]

_Arrays: TypeAlias = Sequence[npt.NDArray[Any]]


class Conversion(NamedTuple):
    """Wire format to convert to, and whether the mean token is sent."""

    wire_format: DeviceFormat
    has_mean: bool = False


FLOAT32: Final = Conversion("float32")


@dataclass(frozen=True, slots=True, eq=False)
class PrunedUnit:
    """Tokens of a unit: a row of what a pruner returned for a group."""

    group: PrunedTokens
    row: int

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        counts = self.group.counts
        return self.group.origins.shape[-1] if counts is None else counts[self.row]


@dataclass(frozen=True, slots=True, eq=False)
class PrunedMedia:
    """An image or video whose tokens are on the device.

    Attributes:
        source: Image or video that was pruned, with its pruner and budget.
        tasks: Task of each unit.
        units: Tokens of each unit; None for one that keeps none.
        cls_tokens: CLS tokens that the language model reads if nothing is pruned, [num_inputs * cls_per_input, C]; None
            if something is pruned for sure.
    """

    source: MediaToPrune
    tasks: Sequence[PruningTask]
    units: Sequence[PrunedUnit | None]
    cls_tokens: Tensor | None

    @property
    def conversion(self) -> Conversion:
        """Conversion on the device for the request's wire format.

        A mean is that of a whole message. Where that has several units, CLS tokens or padding, the message is
        quantized on the CPU.
        """
        wire_format, units = self.source.wire_format, [unit for unit in self.units if unit is not None]
        num_tokens = sum(unit.num_tokens for unit in units)
        num_tokens += 0 if self.cls_tokens is None else len(self.cls_tokens)
        if not sends_mean(wire_format, num_tokens):
            return Conversion(wire_format)
        if len(units) == 1 and self.cls_tokens is None and units[0].group.counts is None:
            return Conversion(wire_format, has_mean=True)
        return FLOAT32


class _Copies:
    """Tensors that are copied to the CPU together."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def add(self, tensor: Tensor) -> int:
        """Number of the array that `to_host` will have for `tensor`."""
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def to_host(self) -> list[npt.NDArray[Any]]:
        return to_host(self._tensors)


@dataclass(frozen=True, slots=True)
class _Maps:
    """Numbers of the arrays of a group other than its values; None for those that it lacks."""

    origins: int
    cluster_of_patch: int
    task_map: int | None
    saliency_map: int | None
    reading_group: int | None

    @classmethod
    def of(cls, tokens: PrunedTokens, copies: _Copies) -> _Maps:
        task_map, saliency_map = tokens.task_map, tokens.saliency_map
        return cls(
            copies.add(tokens.origins),
            copies.add(tokens.cluster_of_patch),
            None if task_map is None else copies.add(task_map.to(torch.float32)),
            None if saliency_map is None else copies.add(saliency_map.to(torch.float32)),
            None if tokens.reading_group is None else copies.add(tokens.reading_group),
        )


@dataclass(frozen=True, slots=True)
class _Converted:
    """Converted tokens: the number of each array by its name, what to index them with by unit or medium, and C."""

    numbers: Mapping[str, int]
    index: Mapping[int, int | slice]
    wire_format: DeviceFormat
    channels: int

    def values(self, key: int, arrays: _Arrays) -> TokenValues:
        """Values of a row of a group, or of the CLS tokens of an image or video."""
        index = self.index[key]
        chosen = {name: arrays[number][index] for name, number in self.numbers.items()}
        return token_values(chosen, self.wire_format, self.channels)


def copy_to_host(media: Sequence[PrunedMedia], conversions: Sequence[Conversion]) -> list[EncodedMedia]:
    """Images and videos on the CPU, in the order in which the language model reads their tokens, after one copy."""
    copies = _Copies()
    groups = {id(unit.group): unit.group for item in media for unit in item.units if unit is not None}
    maps = {key: _Maps.of(group, copies) for key, group in groups.items()}
    converted = _convert_groups(media, conversions, groups, copies)
    cls_tokens = _convert_cls_tokens(media, conversions, copies)
    arrays = copies.to_host()

    def unit_tokens(task: PruningTask, unit: PrunedUnit, conversion: Conversion) -> UnitTokens:
        values = converted[id(unit.group), conversion].values(unit.row, arrays)
        return _unit_tokens(task, unit, values, maps[id(unit.group)], arrays)

    return [
        assemble(
            item.source.features.layout,
            [
                None if unit is None else unit_tokens(task, unit, conversion)
                for task, unit in zip(item.tasks, item.units, strict=True)
            ],
            cls_tokens=None if item.cls_tokens is None else cls_tokens[conversion].values(i, arrays),
            features_cached=item.source.features_cached,
        )
        for i, (item, conversion) in enumerate(zip(media, conversions, strict=True))
    ]


def _convert_groups(
    media: Sequence[PrunedMedia],
    conversions: Sequence[Conversion],
    groups: Mapping[int, PrunedTokens],
    copies: _Copies,
) -> dict[tuple[int, Conversion], _Converted]:
    """Converted tokens by the id of their group and by conversion: a group may have several wire formats."""
    rows: dict[tuple[int, Conversion], list[int]] = {}
    for item, conversion in zip(media, conversions, strict=True):
        for unit in item.units:
            if unit is not None:
                rows.setdefault((id(unit.group), conversion), []).append(unit.row)
    converted = {}
    for (group, conversion), chosen in rows.items():
        features, chosen = groups[group].features, sorted(chosen)
        if chosen != list(range(len(features))):
            features = features[to_device(torch.tensor(chosen), features.device)]
        index = {row: position for position, row in enumerate(chosen)}
        converted[group, conversion] = _convert(features, conversion, index, copies)
    return converted


def _convert_cls_tokens(
    media: Sequence[PrunedMedia], conversions: Sequence[Conversion], copies: _Copies
) -> dict[Conversion, _Converted]:
    """Converted CLS tokens by conversion; those of an image or video by its index in `media`."""
    parts: dict[Conversion, list[Tensor]] = {}
    index: dict[int, int | slice] = {}
    for i, (item, conversion) in enumerate(zip(media, conversions, strict=True)):
        if item.cls_tokens is not None:
            of_conversion = parts.setdefault(conversion, [])
            start = sum(map(len, of_conversion))
            index[i] = slice(start, start + len(item.cls_tokens))
            of_conversion.append(item.cls_tokens)
    return {
        conversion: _convert(torch.cat(of_conversion), conversion, index, copies)
        for conversion, of_conversion in parts.items()
    }


def _convert(features: Tensor, conversion: Conversion, index: Mapping[int, int | slice], copies: _Copies) -> _Converted:
    tensors = convert(features, conversion.wire_format, has_mean=conversion.has_mean)
    numbers = {name: copies.add(tensor) for name, tensor in tensors.items()}
    return _Converted(numbers, index, conversion.wire_format, features.shape[-1])


def _unit_tokens(task: PruningTask, unit: PrunedUnit, values: TokenValues, maps: _Maps, arrays: _Arrays) -> UnitTokens:
    def array(number: int | None) -> npt.NDArray[Any] | None:
        return None if number is None else arrays[number][unit.row]

    count, reading_group = unit.num_tokens, array(maps.reading_group)
    return UnitTokens(
        task.unit.positions,
        values[:count],
        arrays[maps.origins][unit.row][:count],
        arrays[maps.cluster_of_patch][unit.row],
        array(maps.task_map),
        array(maps.saliency_map),
        None if reading_group is None else reading_group[:count],
    )
