from google.protobuf import struct_pb2 as _struct_pb2
from fovea.v1 import limits_pb2 as _limits_pb2
from fovea.v1 import pruner_pb2 as _pruner_pb2
from fovea.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union
from fovea.v1.pruner_pb2 import PrunerInfo as PrunerInfo
from fovea.v1.pruner_pb2 import PrunerParameter as PrunerParameter

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FIT_UNSPECIFIED: _ClassVar[ImageFit]
    IMAGE_FIT_CROP: _ClassVar[ImageFit]
    IMAGE_FIT_PAD: _ClassVar[ImageFit]

class VideoBudget(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VIDEO_BUDGET_UNSPECIFIED: _ClassVar[VideoBudget]
    VIDEO_BUDGET_PER_FRAME: _ClassVar[VideoBudget]
    VIDEO_BUDGET_WHOLE: _ClassVar[VideoBudget]

class TextTokenizer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TEXT_TOKENIZER_UNSPECIFIED: _ClassVar[TextTokenizer]
    TEXT_TOKENIZER_TEXT_TOWER: _ClassVar[TextTokenizer]
    TEXT_TOKENIZER_LANGUAGE_MODEL: _ClassVar[TextTokenizer]
IMAGE_FIT_UNSPECIFIED: ImageFit
IMAGE_FIT_CROP: ImageFit
IMAGE_FIT_PAD: ImageFit
VIDEO_BUDGET_UNSPECIFIED: VideoBudget
VIDEO_BUDGET_PER_FRAME: VideoBudget
VIDEO_BUDGET_WHOLE: VideoBudget
TEXT_TOKENIZER_UNSPECIFIED: TextTokenizer
TEXT_TOKENIZER_TEXT_TOWER: TextTokenizer
TEXT_TOKENIZER_LANGUAGE_MODEL: TextTokenizer

class EncodeRequest(_message.Message):
    __slots__ = ("images", "text_ids", "pruner", "pruner_params", "keep_tokens", "keep_ratio", "keep_auto", "wire_dtype", "explain", "videos", "video_budget", "max_wire_bytes", "image_fit", "cache_salt")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TEXT_IDS_FIELD_NUMBER: _ClassVar[int]
    PRUNER_FIELD_NUMBER: _ClassVar[int]
    PRUNER_PARAMS_FIELD_NUMBER: _ClassVar[int]
    KEEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RATIO_FIELD_NUMBER: _ClassVar[int]
    KEEP_AUTO_FIELD_NUMBER: _ClassVar[int]
    WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    VIDEOS_FIELD_NUMBER: _ClassVar[int]
    VIDEO_BUDGET_FIELD_NUMBER: _ClassVar[int]
    MAX_WIRE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIT_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    text_ids: _containers.RepeatedScalarFieldContainer[int]
    pruner: str
    pruner_params: _struct_pb2.Struct
    keep_tokens: int
    keep_ratio: float
    keep_auto: bool
    wire_dtype: _tensor_pb2.DType
    explain: bool
    videos: _containers.RepeatedCompositeFieldContainer[Video]
    video_budget: VideoBudget
    max_wire_bytes: int
    image_fit: ImageFit
    cache_salt: str
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., text_ids: _Optional[_Iterable[int]] = ..., pruner: _Optional[str] = ..., pruner_params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., keep_tokens: _Optional[int] = ..., keep_ratio: _Optional[float] = ..., keep_auto: bool = ..., wire_dtype: _Optional[_Union[_tensor_pb2.DType, str]] = ..., explain: bool = ..., videos: _Optional[_Iterable[_Union[Video, _Mapping]]] = ..., video_budget: _Optional[_Union[VideoBudget, str]] = ..., max_wire_bytes: _Optional[int] = ..., image_fit: _Optional[_Union[ImageFit, str]] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class Video(_message.Message):
    __slots__ = ("file", "frames", "num_frames")
    FILE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    file: bytes
    frames: Frames
    num_frames: int
    def __init__(self, file: _Optional[bytes] = ..., frames: _Optional[_Union[Frames, _Mapping]] = ..., num_frames: _Optional[int] = ...) -> None: ...

class Frames(_message.Message):
    __slots__ = ("images", "seconds_per_frame")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_FRAME_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    seconds_per_frame: float
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., seconds_per_frame: _Optional[float] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("visual_tokens", "pruner", "num_tokens_total", "explanations", "timing", "features_cached", "viewed")
    VISUAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRUNER_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    FEATURES_CACHED_FIELD_NUMBER: _ClassVar[int]
    VIEWED_FIELD_NUMBER: _ClassVar[int]
    visual_tokens: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.VisualTokens]
    pruner: str
    num_tokens_total: _containers.RepeatedScalarFieldContainer[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    timing: EncodeTiming
    features_cached: _containers.RepeatedScalarFieldContainer[bool]
    viewed: _containers.RepeatedCompositeFieldContainer[Box]
    def __init__(self, visual_tokens: _Optional[_Iterable[_Union[_tensor_pb2.VisualTokens, _Mapping]]] = ..., pruner: _Optional[str] = ..., num_tokens_total: _Optional[_Iterable[int]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ..., timing: _Optional[_Union[EncodeTiming, _Mapping]] = ..., features_cached: _Optional[_Iterable[bool]] = ..., viewed: _Optional[_Iterable[_Union[Box, _Mapping]]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("task_map", "saliency_map", "merged_into")
    TASK_MAP_FIELD_NUMBER: _ClassVar[int]
    SALIENCY_MAP_FIELD_NUMBER: _ClassVar[int]
    MERGED_INTO_FIELD_NUMBER: _ClassVar[int]
    task_map: _containers.RepeatedScalarFieldContainer[float]
    saliency_map: _containers.RepeatedScalarFieldContainer[float]
    merged_into: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task_map: _Optional[_Iterable[float]] = ..., saliency_map: _Optional[_Iterable[float]] = ..., merged_into: _Optional[_Iterable[int]] = ...) -> None: ...

class EncodeTiming(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "forward_ms", "batch_size")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    forward_ms: float
    batch_size: int
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., forward_ms: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...

class GetEncoderInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEncoderInfoResponse(_message.Message):
    __slots__ = ("model", "family", "fingerprint", "text_tower_fingerprint", "grid", "hidden_size", "pruners", "default_pruner", "default_keep_ratio", "default_wire_dtype", "max_text_ids", "max_images", "settings_fingerprint", "max_videos", "max_frames", "text_tokenizer", "wire_basis", "image_fits", "default_image_fit", "newest_request_field")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TEXT_TOWER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    PRUNERS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRUNER_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_KEEP_RATIO_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_WIRE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_VIDEOS_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_FIELD_NUMBER: _ClassVar[int]
    TEXT_TOKENIZER_FIELD_NUMBER: _ClassVar[int]
    WIRE_BASIS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FITS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_IMAGE_FIT_FIELD_NUMBER: _ClassVar[int]
    NEWEST_REQUEST_FIELD_FIELD_NUMBER: _ClassVar[int]
    model: str
    family: str
    fingerprint: str
    text_tower_fingerprint: str
    grid: _tensor_pb2.Grid
    hidden_size: int
    pruners: _containers.RepeatedCompositeFieldContainer[_pruner_pb2.PrunerInfo]
    default_pruner: str
    default_keep_ratio: float
    default_wire_dtype: _tensor_pb2.DType
    max_text_ids: int
    max_images: int
    settings_fingerprint: str
    max_videos: int
    max_frames: int
    text_tokenizer: TextTokenizer
    wire_basis: str
    image_fits: _containers.RepeatedScalarFieldContainer[ImageFit]
    default_image_fit: ImageFit
    newest_request_field: int
    def __init__(self, model: _Optional[str] = ..., family: _Optional[str] = ..., fingerprint: _Optional[str] = ..., text_tower_fingerprint: _Optional[str] = ..., grid: _Optional[_Union[_tensor_pb2.Grid, _Mapping]] = ..., hidden_size: _Optional[int] = ..., pruners: _Optional[_Iterable[_Union[_pruner_pb2.PrunerInfo, _Mapping]]] = ..., default_pruner: _Optional[str] = ..., default_keep_ratio: _Optional[float] = ..., default_wire_dtype: _Optional[_Union[_tensor_pb2.DType, str]] = ..., max_text_ids: _Optional[int] = ..., max_images: _Optional[int] = ..., settings_fingerprint: _Optional[str] = ..., max_videos: _Optional[int] = ..., max_frames: _Optional[int] = ..., text_tokenizer: _Optional[_Union[TextTokenizer, str]] = ..., wire_basis: _Optional[str] = ..., image_fits: _Optional[_Iterable[_Union[ImageFit, str]]] = ..., default_image_fit: _Optional[_Union[ImageFit, str]] = ..., newest_request_field: _Optional[int] = ...) -> None: ...
