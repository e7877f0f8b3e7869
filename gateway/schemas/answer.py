"""Request of `POST /v1/answer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.schemas.messages import Message
from gateway.schemas.params import BoundedParams

__all__ = [
    "AnswerRequest",
    "CacheMode",
    "LlmPrunerRequest",
    "QuestionRequest",
    "VideoBudget",
]

CacheMode = Literal["use", "bypass", "refresh"]
VideoBudget = Literal["per_frame", "whole"]
WireDType = Literal["float32", "float16", "bfloat16", "int8", "int4", "entropy", "basis"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _url_or_frames(value: Any) -> Any:
    # Before pydantic tries one and the other and complains about both.
    frames = isinstance(value, list) and value and all(isinstance(frame, str) for frame in value)
    if value is None or isinstance(value, str) or frames:
        return value
    raise PydanticCustomError("video", "a data URL, an https URL, or a list of frames as such URLs is accepted")


def _auto_or_count(value: Any, count: ValidatorFunctionWrapHandler) -> Any:
    if value == "auto":
        return value
    try:
        return count(value)
    except ValidationError as error:
        if error.errors()[0]["type"].startswith("int_"):
            raise PydanticCustomError("count", 'a whole number or "auto" is accepted') from error
        raise


if TYPE_CHECKING:
    _KeepTokens = int | Literal["auto"]
else:  # not a union, whose errors would speak of both of its members
    _KeepTokens = Annotated[
        int,
        Field(ge=1, lt=2**32),
        WrapValidator(_auto_or_count),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "exclusiveMaximum": 2**32}, {"const": "auto"}]}),
    ]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LlmPrunerRequest(_Request):
    """A second pruner, inside the language model."""

    name: str = Field(min_length=1)
    """A name from `GET /v1/pruners` with side `llm`."""

    keep_tokens: int | None = Field(default=None, ge=1, lt=2**32)
    """Visual tokens to keep of those that the encoder-side pruner left, as a count."""

    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """The same as a share; exactly one of `keep_tokens` and `keep_ratio`."""

    params: BoundedParams = Field(default_factory=dict)
    """Parameters of that pruner by name; those left out keep their defaults."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.keep_tokens is None) == (self.keep_ratio is None):
            raise PydanticCustomError("llm_budget", "exactly one of keep_tokens and keep_ratio is needed")
        return self


class QuestionRequest(_Request):
    """What every question about pictures or a video says."""

    question: str | None = None
    """The question, required unless `messages` is given. Each `<image>` in it is the place of one picture, in their
    order, and `<video>` that of the video where the model takes any; what has no mark comes first. Other special tokens
    are read as plain text."""

    image: str | None = None
    """The picture: a data URL (`data:image/jpeg;base64,...`), or an https URL where the server allows its host. In
    multipart/form-data it is the uploaded file. JPEG, PNG, WebP, GIF and BMP are accepted."""

    images: Annotated[list[str] | None, Field(min_length=1)] = None
    """Several pictures instead of `image`, each likewise; in multipart/form-data several files. Up to 8 unless set
    otherwise."""

    video: Annotated[str | list[str] | None, BeforeValidator(_url_or_frames)] = None
    """A video, where the model takes any: a data URL (`data:video/mp4;base64,...`), an https URL, or a list of frames,
    each as `image`; in multipart/form-data the uploaded file. MP4, WebM, MKV, AVI, MOV and GIF are accepted."""

    messages: Annotated[list[Message] | None, Field(min_length=1, max_length=256)] = None
    """A chat history in OpenAI's shape instead of question, pictures and video. The last message is the user's; visual
    tokens are chosen for its text, those of earlier pictures too. In a form: a JSON list."""

    num_frames: int | None = Field(default=None, ge=1)
    """Frames to sample from a video file; left out: the model's own number. Up to 64 unless set otherwise."""

    seconds_per_frame: float | None = Field(default=None, gt=0, le=3600)
    """Of a list of frames: the time from one to the next; left out: unknown."""

    video_budget: VideoBudget | None = None
    """`per_frame` (the default): every frame keeps its share of the budget. `whole`: all frames compete for it."""

    model: str | None = None
    """Must be the served model's name if given."""

    pruner: str | None = Field(default=None, min_length=1)
    """A name from `GET /v1/pruners`; left out: the server's default."""

    pruner_params: BoundedParams = Field(default_factory=dict)
    """Parameters of that pruner by name; those left out keep their defaults. In a form: a JSON object. Numbers are
    finite, nesting is up to 8 deep, and the whole up to 4096 bytes of JSON without spaces."""

    keep_tokens: _KeepTokens | None = None
    """Visual tokens to keep of each picture or video, as a count; at or above its own number nothing is pruned. `auto`:
    the pruner decides for each picture and question, where `GET /v1/pruners` says that it chooses its budget."""

    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """Visual tokens to keep of each picture or video, as a share; at most one of `keep_tokens` and `keep_ratio`."""

    timeout_s: float | None = Field(default=None, gt=0)
    """Deadline of the whole request in seconds, up to the server's limit; left out: 60."""

    cache: CacheMode = "use"
    """`use` reads and fills the caches, `refresh` only fills them, `bypass` does neither."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep_tokens is not None and self.keep_ratio is not None:
            raise PydanticCustomError("one_budget", "at most one of keep_tokens and keep_ratio may be given")
        return self


class AnswerRequest(QuestionRequest):
    """A question about pictures or a video."""

    llm_pruner: LlmPrunerRequest | None = None
    """A second pruner, inside the language model, on what the first one left; left out: none. In a form: a JSON
    object."""

    wire_dtype: WireDType | None = None
    """How visual tokens travel to the language model; left out: the server's default, or with `max_wire_bytes` the
    widest that fits."""

    max_wire_bytes: int | None = Field(default=None, ge=1, lt=2**32)
    """Most bytes of visual tokens to send to the language model. The server picks how many tokens in which dtype;
    `keep_tokens` or `keep_ratio`, if given, is then the most that are kept, and `wire_dtype` the only dtype considered.
    `usage` says what was chosen."""

    max_tokens: int = Field(default=128, ge=1)
    """Most tokens to generate; the server's limit is 2048 unless set otherwise."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    """0 is greedy; higher is more random."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability mass."""

    seed: int | None = Field(default=None, ge=0, lt=2**64)
    """Makes sampling repeatable, and its answer cacheable."""

    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], BeforeValidator(_as_list)] = Field(
        default_factory=list, max_length=8
    )
    """Up to 8 strings; the answer ends before the first that appears. One string may stand without a list."""

    stream: bool = False
    """Send server-sent events: `token` as text is decoded, then `done` with the whole answer, or `error`."""

    explain: bool = False
    """Add the score maps and the kept tokens."""

    @property
    def deterministic(self) -> bool:
        """Whether the same request always gets the same answer, so that the answer may be cached."""
        return self.temperature == 0 or self.seed is not None
