"""Recordings of a commit: messages and cached values of each case, infos of the services, and the contract itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from tests.contract.calls import Call

__all__ = ["COMMITS", "Contract", "Recording", "Recordings", "stable"]

_FOLDER: Final = Path(__file__).parent / "recorded"
COMMITS: Final = sorted(path.name for path in _FOLDER.iterdir() if path.is_dir())
_INFOS: Final = "infos.json"
_CONTRACT: Final = "contract.pb"
_MEASURED: Final = ("id", "timing_ms", "cache")


def stable(response: Mapping[str, Any]) -> dict[str, Any]:
    """Response of the REST API without the fields that differ from call to call."""
    return {name: value for name, value in response.items() if name not in _MEASURED}


@dataclass(frozen=True)
class Recording:
    """Consequences of one request of the REST API.

    Attributes:
        path: Path of the endpoint.
        body: JSON body of the request.
        response: JSON body of the response, see `stable`.
        calls: Calls of the gateway to both services.
        cache: Entries that the gateway wrote to Redis, by key.
    """

    path: str
    body: Mapping[str, Any]
    response: Mapping[str, Any]
    calls: Sequence[Call]
    cache: Mapping[str, bytes]

    def of(self, method: str) -> list[Call]:
        """Calls of a method, such as `Encode`."""
        return [call for call in self.calls if call.method.endswith(f"/{method}")]


class Contract:
    """Protocol buffers of a commit. They read messages as the services and the gateway of that commit did.

    Args:
        descriptors: Serialized FileDescriptorSet, imports included.
    """

    def __init__(self, descriptors: bytes) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
            self._pool.Add(file)

    def read(self, name: str, data: bytes) -> Message:
        """Message of the contract by name, without the fields that the commit did not know."""
        message = message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"fovea.v1.{name}"))()
        message.ParseFromString(data)
        message.DiscardUnknownFields()
        return message

    def fields(self, name: str, data: bytes) -> dict[str, Any]:
        """Fields of a message by name, as `read` finds them."""
        fields: dict[str, Any] = MessageToDict(self.read(name, data), preserving_proto_field_name=True)
        return fields


class Recordings:
    """Folder with the recordings of one commit.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, commit: str) -> Self:
        """Recordings of a commit, whether or not there are any yet."""
        return cls(_FOLDER / commit)

    @property
    def descriptors(self) -> bytes:
        """Serialized FileDescriptorSet of the contract of the commit."""
        return (self._folder / _CONTRACT).read_bytes()

    @cached_property
    def contract(self) -> Contract:
        """Contract of the commit."""
        return Contract(self.descriptors)

    @property
    def cases(self) -> list[str]:
        """Names of the cases."""
        return sorted(path.stem for path in self._folder.glob("*.json") if path.name != _INFOS)

    def read(self, case: str) -> Recording:
        """Recording of a case."""
        fields = json.loads((self._folder / f"{case}.json").read_text())
        calls = [_call(call) for call in fields.pop("calls")]
        cache = {key: base64.b64decode(value) for key, value in fields.pop("cache").items()}
        return Recording(calls=calls, cache=cache, **fields)

    def read_infos(self) -> list[Call]:
        """Calls of GetModelInfo of both services."""
        return [_call(call) for call in json.loads((self._folder / _INFOS).read_text())]

    def write(self, recordings: Mapping[str, Recording], infos: Sequence[Call], descriptors: bytes) -> None:
        """Writes all files of the folder, which may exist."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / _CONTRACT).write_bytes(descriptors)
        self._write(_INFOS, [asdict(call) for call in infos])
        for case, recording in recordings.items():
            self._write(f"{case}.json", asdict(recording))

    def _write(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, default=lambda data: base64.b64encode(data).decode())
        (self._folder / name).write_text(f"{text}\n")


def _call(fields: Mapping[str, Any]) -> Call:
    replies = [base64.b64decode(reply) for reply in fields["replies"]]
    return Call(fields["method"], base64.b64decode(fields["request"]), replies)
