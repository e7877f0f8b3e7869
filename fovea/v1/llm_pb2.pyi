from google.protobuf import struct_pb2 as _struct_pb2
from fovea.v1 import limits_pb2 as _limits_pb2
from fovea.v1 import pruner_pb2 as _pruner_pb2
from fovea.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRequest(_message.Message):
    __slots__ = ("input_ids", "visual_tokens", "sampling", "first_token_logprobs", "llm_pruner", "cross_attention", "top_logprobs", "cache_salt")
    INPUT_IDS_FIELD_NUMBER: _ClassVar[int]
    VISUAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    LLM_PRUNER_FIELD_NUMBER: _ClassVar[int]
    CROSS_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    input_ids: _containers.RepeatedScalarFieldContainer[int]
    visual_tokens: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.VisualTokens]
    sampling: SamplingParams
    first_token_logprobs: bool
    llm_pruner: LlmPruner
    cross_attention: CrossAttention
    top_logprobs: int
    cache_salt: str
    def __init__(self, input_ids: _Optional[_Iterable[int]] = ..., visual_tokens: _Optional[_Iterable[_Union[_tensor_pb2.VisualTokens, _Mapping]]] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., first_token_logprobs: bool = ..., llm_pruner: _Optional[_Union[LlmPruner, _Mapping]] = ..., cross_attention: _Optional[_Union[CrossAttention, _Mapping]] = ..., top_logprobs: _Optional[int] = ..., cache_salt: _Optional[str] = ...) -> None: ...

class CrossAttention(_message.Message):
    __slots__ = ("layer",)
    LAYER_FIELD_NUMBER: _ClassVar[int]
    layer: int
    def __init__(self, layer: _Optional[int] = ...) -> None: ...

class LlmPruner(_message.Message):
    __slots__ = ("name", "params", "keep_tokens", "keep_ratio")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    KEEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEEP_RATIO_FIELD_NUMBER: _ClassVar[int]
    name: str
    params: _struct_pb2.Struct
    keep_tokens: int
    keep_ratio: float
    def __init__(self, name: _Optional[str] = ..., params: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., keep_tokens: _Optional[int] = ..., keep_ratio: _Optional[float] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("max_tokens", "temperature", "top_p", "seed", "stop", "repetition_penalty", "top_k", "min_p", "presence_penalty", "frequency_penalty", "ignore_eos")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    repetition_penalty: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    ignore_eos: bool
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., repetition_penalty: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., ignore_eos: bool = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("delta", "done")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    delta: Delta
    done: Done
    def __init__(self, delta: _Optional[_Union[Delta, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "logprobs")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprob]
    def __init__(self, text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprob, _Mapping]]] = ...) -> None: ...

class TokenLogprob(_message.Message):
    __slots__ = ("token_id", "token", "logprob", "top")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    token: bytes
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TopLogprob]
    def __init__(self, token_id: _Optional[int] = ..., token: _Optional[bytes] = ..., logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TopLogprob, _Mapping]]] = ...) -> None: ...

class TopLogprob(_message.Message):
    __slots__ = ("token_id", "token", "logprob")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    token: bytes
    logprob: float
    def __init__(self, token_id: _Optional[int] = ..., token: _Optional[bytes] = ..., logprob: _Optional[float] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("finish_reason", "prompt_tokens", "completion_tokens", "timing", "first_token_logprobs", "token_ids", "visual_tokens_by_layer", "cross_attention")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    VISUAL_TOKENS_BY_LAYER_FIELD_NUMBER: _ClassVar[int]
    CROSS_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    timing: GenerateTiming
    first_token_logprobs: _containers.RepeatedScalarFieldContainer[float]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    visual_tokens_by_layer: _containers.RepeatedScalarFieldContainer[int]
    cross_attention: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, finish_reason: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., timing: _Optional[_Union[GenerateTiming, _Mapping]] = ..., first_token_logprobs: _Optional[_Iterable[float]] = ..., token_ids: _Optional[_Iterable[int]] = ..., visual_tokens_by_layer: _Optional[_Iterable[int]] = ..., cross_attention: _Optional[_Iterable[float]] = ...) -> None: ...

class GenerateTiming(_message.Message):
    __slots__ = ("queue_ms", "time_to_first_token_ms", "generate_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    time_to_first_token_ms: float
    generate_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., time_to_first_token_ms: _Optional[float] = ..., generate_ms: _Optional[float] = ...) -> None: ...

class GetLLMInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLLMInfoResponse(_message.Message):
    __slots__ = ("model", "family", "fingerprint", "engine", "max_model_len", "vocab_size", "image_token_id", "visual_hidden_size", "max_tokens", "settings_fingerprint", "llm_pruners", "llm_pruner_infos", "video_token_id", "wire_basis", "default_sampling", "sampling_parameters", "newest_request_field")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    VISUAL_HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LLM_PRUNERS_FIELD_NUMBER: _ClassVar[int]
    LLM_PRUNER_INFOS_FIELD_NUMBER: _ClassVar[int]
    VIDEO_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    WIRE_BASIS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_REQUEST_FIELD_FIELD_NUMBER: _ClassVar[int]
    model: str
    family: str
    fingerprint: str
    engine: str
    max_model_len: int
    vocab_size: int
    image_token_id: int
    visual_hidden_size: int
    max_tokens: int
    settings_fingerprint: str
    llm_pruners: _containers.RepeatedScalarFieldContainer[str]
    llm_pruner_infos: _containers.RepeatedCompositeFieldContainer[_pruner_pb2.PrunerInfo]
    video_token_id: int
    wire_basis: str
    default_sampling: SamplingParams
    sampling_parameters: _containers.RepeatedScalarFieldContainer[str]
    newest_request_field: int
    def __init__(self, model: _Optional[str] = ..., family: _Optional[str] = ..., fingerprint: _Optional[str] = ..., engine: _Optional[str] = ..., max_model_len: _Optional[int] = ..., vocab_size: _Optional[int] = ..., image_token_id: _Optional[int] = ..., visual_hidden_size: _Optional[int] = ..., max_tokens: _Optional[int] = ..., settings_fingerprint: _Optional[str] = ..., llm_pruners: _Optional[_Iterable[str]] = ..., llm_pruner_infos: _Optional[_Iterable[_Union[_pruner_pb2.PrunerInfo, _Mapping]]] = ..., video_token_id: _Optional[int] = ..., wire_basis: _Optional[str] = ..., default_sampling: _Optional[_Union[SamplingParams, _Mapping]] = ..., sampling_parameters: _Optional[_Iterable[str]] = ..., newest_request_field: _Optional[int] = ...) -> None: ...
