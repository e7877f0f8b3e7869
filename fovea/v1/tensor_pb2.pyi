from fovea.v1 import limits_pb2 as _limits_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]
    DTYPE_BFLOAT16: _ClassVar[DType]
    DTYPE_INT8: _ClassVar[DType]
    DTYPE_INT4: _ClassVar[DType]
    DTYPE_ENTROPY: _ClassVar[DType]
    DTYPE_BASIS: _ClassVar[DType]

class VisualKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VISUAL_KIND_UNSPECIFIED: _ClassVar[VisualKind]
    VISUAL_KIND_IMAGE: _ClassVar[VisualKind]
    VISUAL_KIND_VIDEO: _ClassVar[VisualKind]
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT16: DType
DTYPE_BFLOAT16: DType
DTYPE_INT8: DType
DTYPE_INT4: DType
DTYPE_ENTROPY: DType
DTYPE_BASIS: DType
VISUAL_KIND_UNSPECIFIED: VisualKind
VISUAL_KIND_IMAGE: VisualKind
VISUAL_KIND_VIDEO: VisualKind

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data", "crc32")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    crc32: int
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ..., crc32: _Optional[int] = ...) -> None: ...

class Grid(_message.Message):
    __slots__ = ("frames", "rows", "columns", "cls_per_frame")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CLS_PER_FRAME_FIELD_NUMBER: _ClassVar[int]
    frames: int
    rows: int
    columns: int
    cls_per_frame: int
    def __init__(self, frames: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., cls_per_frame: _Optional[int] = ...) -> None: ...

class VisualTokens(_message.Message):
    __slots__ = ("features", "positions", "grid", "fingerprint", "newline_after", "kind", "seconds_per_frame", "planes", "frame_times")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NEWLINE_AFTER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_FRAME_FIELD_NUMBER: _ClassVar[int]
    PLANES_FIELD_NUMBER: _ClassVar[int]
    FRAME_TIMES_FIELD_NUMBER: _ClassVar[int]
    features: Tensor
    positions: _containers.RepeatedScalarFieldContainer[int]
    grid: Grid
    fingerprint: str
    newline_after: _containers.RepeatedScalarFieldContainer[int]
    kind: VisualKind
    seconds_per_frame: float
    planes: _containers.RepeatedCompositeFieldContainer[Tensor]
    frame_times: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, features: _Optional[_Union[Tensor, _Mapping]] = ..., positions: _Optional[_Iterable[int]] = ..., grid: _Optional[_Union[Grid, _Mapping]] = ..., fingerprint: _Optional[str] = ..., newline_after: _Optional[_Iterable[int]] = ..., kind: _Optional[_Union[VisualKind, str]] = ..., seconds_per_frame: _Optional[float] = ..., planes: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., frame_times: _Optional[_Iterable[float]] = ...) -> None: ...
