"""Conversion of visual tokens to a wire format on the device, bit for bit as `fovea.wire` does it with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeGuard, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from fovea.wire.quantized import INT4, INT8, Quantized, Scheme, all_finite
from fovea.wire.tensors import Float16Array, Float32Array

__all__ = [
    "DeviceFormat",
    "TokenValues",
    "TokenVectors",
    "convert",
    "converted",
    "device_format",
    "is_finite",
    "is_float32",
    "joined",
    "sends_mean",
    "token_values",
]

DeviceFormat: TypeAlias = Literal["float32", "float16", "int8", "int4"]
"""Wire format to which tokens are converted on the device. All others are written from float32, by numpy."""

TokenValues: TypeAlias = Float32Array | Float16Array | Quantized
"""Values of K tokens on the CPU, with `len` and an index of tokens: [K, C] in floating point, or quantized."""

TokenVectors: TypeAlias = tuple[TokenValues, ...]
"""Values of K tokens, then those of each of their DeepStack planes, all in one wire format."""

_SCHEMES: Final[Mapping[str, Scheme]] = {"int8": INT8, "int4": INT4}
_SMALLEST_SCALE: Final = 2.0**-24  # the smallest positive float16


def device_format(name: str) -> DeviceFormat:
    """Form in which the tokens of the wire format `name` leave the device."""
    found: DeviceFormat = next((form for form in get_args(DeviceFormat) if form == name), "float32")
    return found


def sends_mean(wire_format: DeviceFormat, num_tokens: int) -> bool:
    """Whether a message of so many tokens has a mean."""
    return wire_format in _SCHEMES and _SCHEMES[wire_format].has_mean(num_tokens)


def convert(features: Tensor, wire_format: DeviceFormat, *, has_mean: bool = False) -> dict[str, Tensor]:
    """Tensors that hold tokens in a wire format, by name, for `token_values`. No value is read.

    Args:
        features: Tokens, [..., K, C]. A leading axis holds tokens of different messages.
        wire_format: Wire format.
        has_mean: Whether the mean over K is sent, see `Scheme.has_mean`.
    """
    if wire_format == "float16":
        return {"values": features.to(torch.float16)}  # the same values by way of float32 would take another copy
    features = features.to(torch.float32)
    if wire_format == "float32":
        return {"values": features}
    scheme, tensors, rest = _SCHEMES[wire_format], dict[str, Tensor](), features
    if has_mean:
        tensors["mean"] = _mean(features)
        rest = features - tensors["mean"]
    if num_outliers := scheme.num_outliers(features.shape[-1]):
        channels = _largest(rest.abs(), num_outliers)
        tensors["outlier_channels"] = channels.to(torch.int16)  # the lower 16 bits
        tensors["outliers"] = features.gather(-1, channels).to(torch.float16)
        rest = rest.scatter(-1, channels, 0.0)
    if scheme.group:
        rest = _in_groups(rest, min(scheme.group, rest.shape[-1]))
    scales = _scales(rest.abs().amax(dim=-1, keepdim=True), scheme.limit)
    # Where a scale is 0, so are all values.
    codes = (rest / scales.clamp(min=_SMALLEST_SCALE)).round().to(torch.int8)
    return tensors | {"codes": codes, "scales": scales}


def _mean(features: Tensor) -> Tensor:
    """Mean token, [..., 1, C] float16.

    Most sums are exact in float64. If magnitudes in a channel differ by more than 2**20, the order of summation may
    change the last bit of a sum, which seldom changes the mean in float16.
    """
    total = features.sum(dim=-2, keepdim=True, dtype=torch.float64)
    return _divided(total, features.shape[-2]).to(torch.float32).to(torch.float16)


def _divided(values: Tensor, divisor: int) -> Tensor:
    """Quotients in float64, rounded correctly. By a number, CUDA would multiply with the rounded reciprocal."""
    return values / torch.full((), divisor, dtype=torch.float64, device=values.device)


def _largest(magnitude: Tensor, count: int) -> Tensor:
    """Channels with the largest magnitudes in each token, [..., K, count], ascending. Of equal ones the lower is taken.

    Bits of floating-point numbers that are not negative are ordered as the numbers. With the channel below them, all
    are different, and `topk` has no choice.
    """
    last = magnitude.shape[-1] - 1
    from_last = torch.arange(last, -1, -1, device=magnitude.device)
    keys = torch.add(from_last, magnitude.view(torch.int32), alpha=2**16)
    channels: Tensor = keys.topk(count).indices.sort().values
    return channels


def _in_groups(values: Tensor, size: int) -> Tensor:
    """Channels in groups of `size`, the last one filled up with zeros, [..., groups, size]."""
    if missing := -values.shape[-1] % size:
        values = pad(values, (0, missing))
    grouped: Tensor = values.unflatten(-1, (-1, size))
    return grouped


def _scales(largest: Tensor, limit: int) -> Tensor:
    """Smallest float16 with which no code exceeds the limit."""
    exact = _divided(largest.to(torch.float64), limit)
    rounded = exact.to(torch.float16)
    # The bits of the next larger positive number are those of the number plus one.
    return (rounded.view(torch.int16) + (rounded < exact)).view(torch.float16)


def token_values(arrays: Mapping[str, npt.NDArray[Any]], wire_format: DeviceFormat, channels: int) -> TokenValues:
    """Values of [K, C] tokens from the arrays that `convert` has named, copied to the CPU."""
    if wire_format not in _SCHEMES:
        values: Float32Array | Float16Array = arrays["values"]
        return values
    count = len(arrays["codes"])
    no_outliers = np.empty((count, 0), np.float16)
    return Quantized(
        scheme=_SCHEMES[wire_format],
        codes=arrays["codes"].reshape(count, -1)[:, :channels],
        scales=arrays["scales"].reshape(count, -1),
        outlier_channels=arrays.get("outlier_channels", no_outliers).view(np.uint16),
        outliers=arrays.get("outliers", no_outliers),
        mean=arrays.get("mean", no_outliers).reshape(-1),
    )


def joined(parts: Sequence[TokenValues]) -> TokenValues:
    """Tokens of several parts in the same wire format, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    quantized = [part for part in parts if isinstance(part, Quantized)]
    if quantized:
        return Quantized.joined(quantized)
    values: Float32Array | Float16Array = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return values


def is_float32(values: TokenValues) -> TypeGuard[Float32Array]:
    """Whether the values are float32: not converted to a narrower wire format."""
    return not isinstance(values, Quantized) and values.dtype == np.float32


def converted(values: TokenValues) -> Float16Array | Quantized | None:
    """The values in the wire format to which the device has converted them; None if they are float32."""
    if isinstance(values, Quantized):
        return values
    return None if is_float32(values) else values.astype(np.float16, copy=False)


def is_finite(values: TokenValues) -> bool:
    """Whether all values were finite and not too large for their wire format."""
    return values.is_finite if isinstance(values, Quantized) else all_finite(values)
