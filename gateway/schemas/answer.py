"""Request and response of `POST /v1/answer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from fovea.errors import InvalidRequest
from gateway.schemas.params import BoundedParams

__all__ = [
    "AnswerRequest",
    "AnswerResponse",
    "CacheMode",
    "CacheReport",
    "Explain",
    "LlmPruner",
    "Lookup",
    "TimingMs",
    "TokenEvent",
    "Usage",
    "parse_answer_request",
]

CacheMode = Literal["use", "bypass", "refresh"]
WireDType = Literal["float32", "float16", "bfloat16", "int8", "int4", "entropy"]
Lookup = Literal["hit", "miss", "skip"]

_NOT_YET: Final = ("images", "video", "messages")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LlmPruner(_Request):
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


class AnswerRequest(_Request):
    """A question about a picture."""

    question: str
    """The question. `<image>` in it marks where the picture goes; without the mark the picture comes first. Other
    special tokens are read as plain text."""

    image: str | None = None
    """The picture: a data URL (`data:image/jpeg;base64,...`), or an https URL where the server allows its host. In
    multipart/form-data it is the uploaded file. JPEG, PNG, WebP, GIF and BMP are accepted."""

    model: str | None = None
    """Must be the served model's name if given."""

    pruner: str | None = Field(default=None, min_length=1)
    """A name from `GET /v1/pruners`; left out: the server's default."""

    pruner_params: BoundedParams = Field(default_factory=dict)
    """Parameters of that pruner by name; those left out keep their defaults. In a form: a JSON object. Numbers are
    finite, nesting is up to 8 deep, and the whole up to 4096 bytes."""

    keep_tokens: int | None = Field(default=None, ge=1, lt=2**32)
    """Visual tokens to keep per picture, as a count; at or above the picture's own number nothing is pruned."""

    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """Visual tokens to keep per picture, as a share; at most one of `keep_tokens` and `keep_ratio`."""

    llm_pruner: LlmPruner | None = None
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

    timeout_s: float | None = Field(default=None, gt=0)
    """Deadline of the whole answer in seconds, up to the server's limit; left out: 60."""

    stream: bool = False
    """Send server-sent events: `token` as text is decoded, then `done` with the whole answer, or `error`."""

    cache: CacheMode = "use"
    """`use` reads and fills the caches, `refresh` only fills them, `bypass` does neither."""

    explain: bool = False
    """Add the score maps and the kept tokens."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep_tokens is not None and self.keep_ratio is not None:
            raise PydanticCustomError("one_budget", "at most one of keep_tokens and keep_ratio may be given")
        return self

    @property
    def deterministic(self) -> bool:
        """Whether the same request always gets the same answer, so that the answer may be cached."""
        return self.temperature == 0 or self.seed is not None


def parse_answer_request(fields: Mapping[str, Any], *, strict: bool) -> AnswerRequest:
    """Validates the fields of a request.

    Args:
        fields: Field names and values, as read from JSON or a form.
        strict: Types must match (JSON). A form knows text alone, so there "0.5" is a number and "true" a truth value.

    Raises:
        InvalidRequest: The first field that is wrong, with what is accepted.
    """
    for name in _NOT_YET:
        if name in fields:
            raise InvalidRequest(f"{name} is not served yet; send one picture as image, with a question", param=name)
    try:
        return AnswerRequest.model_validate(dict(fields), strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:80] or None
    if first["type"] == "extra_forbidden":
        accepted = ", ".join((LlmPruner if len(first["loc"]) > 1 else AnswerRequest).model_fields)
        raise InvalidRequest(f"there is no field {param!r}; accepted are {accepted}", param=param)
    if first["type"] == "one_budget":
        raise InvalidRequest(first["msg"], param="keep_ratio")
    message = first["msg"][:1].lower() + first["msg"][1:]
    raise InvalidRequest(f"{param}: {message}", param=str(first["loc"][0])[:80] if first["loc"] else None)


class _Response(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Usage(_Response):
    """What the answer cost."""

    prompt_tokens: int
    """Everything the language model prefilled, kept visual tokens included."""

    completion_tokens: int
    """Tokens generated."""

    visual_tokens_total: int
    """Visual tokens of the picture before pruning."""

    visual_tokens_kept: int
    """Visual tokens that reached the language model."""

    wire_dtype: str
    """How the visual tokens of this answer travelled when it was computed."""

    wire_bytes: int
    """Bytes of visual tokens sent to the LLM service for this answer; 0 on an answer hit."""


class CacheReport(_Response):
    """Where the work of this answer was saved: `hit`, `miss`, or `skip` where a level was not asked."""

    answer: Lookup
    """The whole answer. Also a hit: an identical request was in progress and its answer was shared."""

    visual_tokens: Lookup
    """The encoder's output for this picture, question, pruner and budget."""

    features: Lookup
    """The picture's features inside the encoder."""


class TimingMs(_Response):
    """Milliseconds, as seen from the gateway."""

    queue: float
    """Waiting for a place in a batch, at both services."""

    tokenize: float
    """Writing the question as ids, for both services."""

    encode: float
    """The call to the encoder service; 0 if it was not called."""

    time_to_first_token: float
    """From the request's arrival to the first text."""

    generate: float
    """The call to the LLM service; 0 if it was not called."""

    total: float
    """From the request's arrival to the end of the answer."""


class Explain(_Response):
    """Why these visual tokens were kept."""

    pruner: str
    """The pruner that ran."""

    grid: tuple[int, int]
    """Rows and columns of the picture's patches."""

    kept: list[int]
    """The patches kept, as row * columns + column, in the order in which the language model reads them."""

    task_map: list[list[float]] | None = None
    """[rows][columns] relevance to the question, where the pruner has it."""

    saliency_map: list[list[float]] | None = None
    """[rows][columns] attention of CLS, where the pruner has it."""

    merged_into: list[list[int]] | None = None
    """[rows][columns] index into `kept` of the token that each patch is or was merged into; -1: dropped."""


class AnswerResponse(_Response):
    """The answer and what it took."""

    id: str
    """Of this answer; different for each request."""

    model: str
    """The served model's name."""

    answer: str
    """The answer's text."""

    finish_reason: str
    """`stop`: the model ended or a stop string came. `length`: `max_tokens` reached."""

    usage: Usage
    cache: CacheReport
    timing_ms: TimingMs

    explain: Explain | None = None
    """Only if asked for."""


class TokenEvent(_Response):
    """Data of the SSE event `token`."""

    text: str
    """The next piece of the answer."""
