"""Pruned images and videos of a batch: the conversion to wire formats on the device, the copy to the CPU, assembly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from encoder_service.engine.assembly import assemble, tensors_to_copy
from encoder_service.engine.encoded_media import EncodedMedia
from encoder_service.engine.host_copies import HostCopies
from encoder_service.engine.pruning_units import PruningUnit
from encoder_service.engine.wire_values import (
    DeviceFormat,
    TokenValues,
    TokenVectors,
    convert,
    sends_mean,
    token_values,
)
from encoder_service.pruners.base import PrunedTokens
from encoder_service.pruners.tower_outputs import CLS_HIDDEN
from fovea.modeling.transfers import to_device

__all__ = ["FLOAT32", "Conversion", "conversion_of", "copy_to_host"]


class Conversion(NamedTuple):
    """Wire format to convert to, and whether the mean token is sent."""

    wire_format: DeviceFormat
    has_mean: bool = False


FLOAT32: Final = Conversion("float32")


def conversion_of(units: Sequence[PruningUnit]) -> Conversion:
    """Conversion of an image or video on the device for its request's wire format.

    A mean is that of a whole message. Where that has several units, CLS tokens or padding, the message is quantized on
    the CPU.

    Args:
        units: All units of the image or video after pruning.
    """
    wire_format, groups = units[0].media.request.wire_format, [unit.tokens for unit in units if unit.tokens is not None]
    has_cls = _may_have_cls_tokens(units)
    num_tokens = sum(unit.num_tokens for unit in units)
    num_tokens += len(units[0].media.unpruned.rows) if has_cls else 0
    if not sends_mean(wire_format, num_tokens):
        return Conversion(wire_format)
    if len(groups) == 1 and not has_cls and groups[0].counts is None:
        return Conversion(wire_format, has_mean=True)
    return FLOAT32


def _may_have_cls_tokens(units: Sequence[PruningUnit]) -> bool:
    """Whether the language model reads CLS tokens of an image or video if it proves to be unpruned."""
    features = units[0].media.unpruned
    if not features.layout.cls_per_input or not features.have({CLS_HIDDEN}):
        return False
    return all(unit.tokens is not None and unit.tokens.origins.shape[-1] >= unit.num_patches for unit in units)


@dataclass(frozen=True, slots=True)
class _Converted:
    """Converted tokens: tensors by name, what to index them with by unit or medium, wire format and C.

    Tensors of a group with DeepStack planes have an axis for features and planes after the first.
    """

    tensors: Mapping[str, Tensor]
    index: Mapping[int, int | slice]
    wire_format: DeviceFormat
    channels: int
    num_planes: int = 0

    def values(self, key: int, arrays: HostCopies) -> TokenValues:
        """Values of the CLS tokens of an image or video."""
        return self._values({name: arrays[tensor][self.index[key]] for name, tensor in self.tensors.items()})

    def vectors(self, row: int, num_tokens: int, arrays: HostCopies) -> TokenVectors:
        """Values of the first tokens of a row of a group, and of their planes."""
        of_row = {name: arrays[tensor][self.index[row]] for name, tensor in self.tensors.items()}
        parts = [of_row]
        if self.num_planes:
            parts = [{name: array[i] for name, array in of_row.items()} for i in range(1 + self.num_planes)]
        return tuple(self._values(part)[:num_tokens] for part in parts)

    def _values(self, arrays: Mapping[str, npt.NDArray[Any]]) -> TokenValues:
        return token_values(arrays, self.wire_format, self.channels)


def copy_to_host(media: Sequence[Sequence[PruningUnit]], conversions: Sequence[Conversion]) -> list[EncodedMedia]:
    """Images and videos on the CPU, in the order in which the language model reads their tokens, after one copy.

    Args:
        media: Units of each image or video after pruning.
        conversions: Conversion of each image or video.
    """
    arrays = HostCopies()
    groups = {id(unit.tokens): unit.tokens for units in media for unit in units if unit.tokens is not None}
    for tokens in groups.values():
        arrays.add(*tensors_to_copy(tokens))
    converted = _convert_groups(media, conversions, groups, arrays)
    cls_tokens = _convert_cls_tokens(media, conversions, arrays)
    arrays.copy()

    def vectors(unit: PruningUnit, conversion: Conversion) -> TokenVectors:
        return converted[id(unit.tokens), conversion].vectors(unit.tokens_row, unit.num_tokens, arrays)

    return [
        assemble(
            units,
            [vectors(unit, conversion) for unit in units if unit.tokens is not None],
            arrays,
            cls_values=cls_tokens[conversion].values(i, arrays) if _may_have_cls_tokens(units) else None,
        )
        for i, (units, conversion) in enumerate(zip(media, conversions, strict=True))
    ]


def _convert_groups(
    media: Sequence[Sequence[PruningUnit]],
    conversions: Sequence[Conversion],
    groups: Mapping[int, PrunedTokens],
    arrays: HostCopies,
) -> dict[tuple[int, Conversion], _Converted]:
    """Converted tokens by the id of their group and by conversion: a group may have several wire formats."""
    rows: dict[tuple[int, Conversion], list[int]] = {}
    for units, conversion in zip(media, conversions, strict=True):
        for unit in units:
            if unit.tokens is not None:
                rows.setdefault((id(unit.tokens), conversion), []).append(unit.tokens_row)
    converted = {}
    for (group, conversion), chosen in rows.items():
        vectors, chosen = groups[group].features, sorted(chosen)
        planes, num_planes = groups[group].planes, 0
        if planes is not None:
            vectors, num_planes = torch.cat([vectors[:, None], planes], dim=1), planes.shape[1]
        if chosen != list(range(len(vectors))):
            vectors = vectors[to_device(torch.tensor(chosen), vectors.device)]
        index = {row: position for position, row in enumerate(chosen)}
        converted[group, conversion] = _convert(vectors, conversion, index, arrays, num_planes)
    return converted


def _convert_cls_tokens(
    media: Sequence[Sequence[PruningUnit]], conversions: Sequence[Conversion], arrays: HostCopies
) -> dict[Conversion, _Converted]:
    """Converted CLS tokens by conversion; those of an image or video by its index in `media`."""
    parts: dict[Conversion, list[Tensor]] = {}
    index: dict[int, int | slice] = {}
    for i, (units, conversion) in enumerate(zip(media, conversions, strict=True)):
        if _may_have_cls_tokens(units):
            features = units[0].media.unpruned
            cls_tokens = features.batch.outputs[CLS_HIDDEN][features.rows[0] : features.rows[-1] + 1]
            of_conversion = parts.setdefault(conversion, [])
            start = sum(map(len, of_conversion))
            index[i] = slice(start, start + len(cls_tokens))
            of_conversion.append(cls_tokens)
    return {
        conversion: _convert(torch.cat(of_conversion), conversion, index, arrays)
        for conversion, of_conversion in parts.items()
    }


def _convert(
    vectors: Tensor,
    conversion: Conversion,
    index: Mapping[int, int | slice],
    arrays: HostCopies,
    num_planes: int = 0,
) -> _Converted:
    tensors = convert(vectors, conversion.wire_format, has_mean=conversion.has_mean)
    arrays.add(*tensors.values())
    return _Converted(tensors, index, conversion.wire_format, vectors.shape[-1], num_planes)
