"""The wire format to which a request has its visual tokens converted on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from encoder_service.models.base import EncoderModel
from encoder_service.server.requests import read_request
from encoder_service.settings import EncoderSettings
from fovea.v1 import encoder_pb2, tensor_pb2


@pytest.mark.parametrize(
    ("fields", "wire_format"),
    [
        ({}, "int8"),  # the setting
        ({"wire_dtype": tensor_pb2.DTYPE_FLOAT16}, "float16"),
        ({"wire_dtype": tensor_pb2.DTYPE_INT4}, "int4"),
        ({"wire_dtype": tensor_pb2.DTYPE_FLOAT32}, "float32"),
        ({"wire_dtype": tensor_pb2.DTYPE_BFLOAT16}, "float32"),
        ({"wire_dtype": tensor_pb2.DTYPE_ENTROPY}, "float32"),
        ({"max_wire_bytes": 2000}, "float32"),
        ({"max_wire_bytes": 2000, "wire_dtype": tensor_pb2.DTYPE_INT8}, "float32"),
    ],
)
def test_the_device_converts_to_formats_of_a_known_size(
    fields: dict[str, Any], wire_format: str, model: EncoderModel, make_image: Callable[..., bytes]
) -> None:
    message = encoder_pb2.EncodeRequest(images=[make_image(0)], text_ids=[98, 5, 99], **fields)
    settings = EncoderSettings(model="unused", wire_dtype="int8")
    assert read_request(message, model, settings).wire_format == wire_format
