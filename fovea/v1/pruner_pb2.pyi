from google.protobuf import struct_pb2 as _struct_pb2
from fovea.v1 import limits_pb2 as _limits_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrunerInfo(_message.Message):
    __slots__ = ("name", "side", "summary", "reference", "reads_text", "parameters", "chooses_budget")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    READS_TEXT_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CHOOSES_BUDGET_FIELD_NUMBER: _ClassVar[int]
    name: str
    side: str
    summary: str
    reference: str
    reads_text: bool
    parameters: _containers.RepeatedCompositeFieldContainer[PrunerParameter]
    chooses_budget: bool
    def __init__(self, name: _Optional[str] = ..., side: _Optional[str] = ..., summary: _Optional[str] = ..., reference: _Optional[str] = ..., reads_text: bool = ..., parameters: _Optional[_Iterable[_Union[PrunerParameter, _Mapping]]] = ..., chooses_budget: bool = ...) -> None: ...

class PrunerParameter(_message.Message):
    __slots__ = ("name", "default", "description", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    default: _struct_pb2.Value
    description: str
    type: str
    def __init__(self, name: _Optional[str] = ..., default: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., description: _Optional[str] = ..., type: _Optional[str] = ...) -> None: ...
