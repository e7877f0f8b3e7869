"""Tensors packed for one copy from the device, and read from it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fovea.modeling.transfers import pack, to_host, unpack

DTYPES = (torch.int64, torch.float32, torch.float16, torch.int8, torch.int16, torch.bool, torch.float64)


def tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    numbers = torch.arange(int(np.prod(shape))).reshape(shape)
    return numbers % 2 == 0 if dtype == torch.bool else (numbers % 100 - 50).to(dtype)


@given(
    st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3).map(tuple)), min_size=1, max_size=8
    )
)
def test_tensors_of_any_dtype_and_size_come_back(kinds: list[tuple[torch.dtype, tuple[int, ...]]]) -> None:
    tensors = [tensor(dtype, shape) for dtype, shape in kinds]
    packed = pack(tensors)
    assert packed.dtype == torch.uint8
    assert len(packed) % 8 == 0
    for want, got in zip(tensors, unpack(packed, tensors), strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_array_equal(got, want.numpy())


def test_a_transposed_tensor_is_packed_in_its_own_order() -> None:
    transposed = torch.arange(6, dtype=torch.int8).view(2, 3).T
    (got,) = unpack(pack([transposed]), [transposed])
    assert got.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_half_precision_takes_half_of_the_bytes() -> None:
    features = torch.zeros(64, 1024)
    assert len(pack([features])) == 2 * len(pack([features.half()])) == 4 * len(pack([features.to(torch.int8)]))


def test_nothing_to_copy_is_copied() -> None:
    assert to_host([]) == []
