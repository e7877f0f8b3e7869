"""The contract of this tree has all that the contract of an earlier commit had: fields are added, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from fovea.v1 import encoder_pb2, llm_pb2, pruner_pb2, tensor_pb2
from tests.contract.recordings import COMMITS, Recordings


def elements(files: Iterable[FileDescriptorProto]) -> dict[str, tuple[object, ...]]:
    """What the bytes of a message depend on, by full name: fields, values of enums, and methods."""
    found: dict[str, tuple[object, ...]] = {}
    for file in files:
        for message in file.message_type:
            found.update(fields(message, message.name))
        for enum in file.enum_type:
            found.update({f"{enum.name}.{value.name}": (value.number,) for value in enum.value})
        for service in file.service:
            for method in service.method:
                streams = method.client_streaming, method.server_streaming
                found[f"{service.name}/{method.name}"] = (method.input_type, method.output_type, *streams)
    return found


def fields(message: DescriptorProto, name: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    for field in message.field:
        yield f"{name}.{field.name}", (field.number, field.type, field.label, field.type_name)
    for nested in message.nested_type:
        yield from fields(nested, f"{name}.{nested.name}")


@pytest.fixture(scope="module")
def current() -> dict[str, tuple[object, ...]]:
    modules = encoder_pb2, llm_pb2, pruner_pb2, tensor_pb2
    files = [FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) for module in modules]
    return elements(files)


@pytest.mark.parametrize("commit", COMMITS)
def test_every_field_keeps_its_number_and_type(current: dict[str, tuple[object, ...]], commit: str) -> None:
    recorded = descriptor_pb2.FileDescriptorSet.FromString(Recordings.of(commit).descriptors).file
    earlier = elements(file for file in recorded if file.package == "fovea.v1")
    assert len(earlier) > 100
    assert {name: current.get(name) for name in earlier} == earlier
