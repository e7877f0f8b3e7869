import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fovea.errors import InvalidRequest
from fovea.v1 import tensor_pb2
from fovea.wire.formats import dtype_name
from fovea.wire.tensors import from_message, parse_dtype, to_message

CAP = 1 << 20
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.floats(-60_000, 60_000, width=32),
)


@pytest.mark.parametrize("name", TORCH)
@given(array=arrays)
def test_a_tensor_arrives_as_torch_would_round_it(name: str, array: np.ndarray) -> None:
    expected = torch.from_numpy(array).to(TORCH[name]).float().numpy()
    got = from_message(to_message(array, parse_dtype(name)), max_bytes=CAP)
    np.testing.assert_array_equal(got, expected)


def test_a_transposed_view_keeps_its_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    np.testing.assert_array_equal(from_message(to_message(array, tensor_pb2.DTYPE_FLOAT32), max_bytes=CAP), array)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(np.nan, "float32"), (np.inf, "bfloat16"), (-np.inf, "float16"), (70_000.0, "float16")],
)
def test_values_that_the_wire_cannot_hold_are_refused_at_the_sender(value: float, dtype: str) -> None:
    with pytest.raises(InvalidRequest, match="not finite"):
        to_message(np.array([1.0, value], np.float32), parse_dtype(dtype))


def message(**changes: object) -> tensor_pb2.Tensor:
    good = to_message(np.ones((2, 3), np.float32), tensor_pb2.DTYPE_FLOAT32)
    for name, value in changes.items():
        good.ClearField(name)
        if name == "shape":
            good.shape.extend(value)  # type: ignore[arg-type]
        else:
            setattr(good, name, value)
    if "data" in changes and "crc32" not in changes:
        good.crc32 = zlib.crc32(good.data)
    return good


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": 0}, "float32, float16, bfloat16"),
        ({"dtype": 77}, "float32, float16, bfloat16"),
        ({"shape": []}, "positive extents"),
        ({"shape": [2, 0]}, "positive extents"),
        ({"shape": [1] * 9}, "positive extents"),
        ({"shape": [2, 4]}, "has 32 bytes, not 24"),
        ({"shape": [4_000_000_000, 4_000_000_000]}, "more than the"),
        ({"data": b"\0" * 23}, "has 24 bytes, not 23"),
        ({"crc32": 1}, "checksum"),
        ({"data": np.full(6, np.nan, "<f4").tobytes()}, "NaN or infinity"),
        ({"data": np.full(6, np.inf, "<f4").tobytes()}, "NaN or infinity"),
    ],
)
def test_an_invalid_tensor_is_refused_with_the_reason(changes: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        from_message(message(**changes), max_bytes=CAP)


def test_the_cap_is_on_what_the_receiver_must_hold() -> None:
    half = to_message(np.ones((10, 10), np.float32), tensor_pb2.DTYPE_FLOAT16)
    assert from_message(half, max_bytes=400).shape == (10, 10)
    with pytest.raises(InvalidRequest, match="399 bytes accepted"):
        from_message(half, max_bytes=399)


def test_an_unknown_dtype_names_those_that_exist() -> None:
    with pytest.raises(InvalidRequest, match="float32, float16, bfloat16"):
        parse_dtype("int3")
    assert dtype_name(tensor_pb2.DTYPE_BFLOAT16) == "bfloat16"
