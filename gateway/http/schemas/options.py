"""Fields that the requests of several surfaces share: pruner, budget, transfer, caches and sampling."""

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

from fovea.budget import Budget, InvalidBudget
from fovea.sampling_ranges import SAMPLING_RANGES
from fovea.wire.formats import WireFormatName
from fovea.wire.image_fits import ImageFit
from gateway.core.encode_spec import VideoBudget
from gateway.core.question import CacheMode
from gateway.http.schemas.params import BoundedParams

__all__ = ["AnswerOptions", "LlmPrunerRequest", "PruningOptions", "Request", "SamplingOptions"]


def _in_range(name: str) -> Any:
    """Field of a sampling parameter; left out: the server's default."""
    accepted = SAMPLING_RANGES[name]
    return Field(default=None, ge=accepted.minimum, le=accepted.maximum)


def _as_list(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise PydanticCustomError("texts", "a text or a list of texts is accepted")
    return [value] if isinstance(value, str) else value


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
else:  # not a union, whose error would list the failure of both types
    _KeepTokens = Annotated[
        int,
        Field(ge=1, lt=2**32),
        WrapValidator(_auto_or_count),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "exclusiveMaximum": 2**32}, {"const": "auto"}]}),
    ]


class Request(BaseModel):
    """Base of requests: fields that do not exist are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class LlmPrunerRequest(Request):
    """A second pruner, inside the language model."""

    name: str = Field(min_length=1)
    """Name of a pruner that `GET /v1/pruners` lists with side `llm`."""

    keep_tokens: int | None = Field(default=None, ge=1, lt=2**32)
    """Budget as a count: number of visual tokens to keep, of those that the first pruner kept."""

    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """Budget as a share of the same tokens; exactly one of `keep_tokens` and `keep_ratio` is required."""

    params: BoundedParams = Field(default_factory=dict)
    """Parameters of the pruner by name. A parameter that is left out has its default."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.keep_tokens is None) == (self.keep_ratio is None):
            raise PydanticCustomError("llm_budget", "exactly one of keep_tokens and keep_ratio is needed")
        return self


class PruningOptions(Request):
    """Pruner, budget, caches and time limit of a question about images and videos."""

    num_frames: int | None = Field(default=None, ge=1)
    """Number of frames to sample from a video file; left out: the model's default. By default, up to 64 are
    accepted."""

    seconds_per_frame: float | None = Field(default=None, gt=0, le=3600)
    """Time from one frame of a list to the next, in seconds; left out: unknown."""

    video_budget: VideoBudget | None = None
    """Use of a video's budget: with `per_frame` (the default) each frame has its own share, with `whole` all frames
    compete for one budget."""

    pruner: str | None = Field(default=None, min_length=1)
    """Name of a pruner that `GET /v1/pruners` lists with side `encoder`; left out: the server's default."""

    pruner_params: BoundedParams = Field(default_factory=dict)
    """Parameters of the pruner by name. A parameter that is left out has its default. In a form: a JSON object. Numbers
    must be finite. Up to 8 levels of nesting and up to 4096 bytes of JSON without spaces are accepted."""

    keep_tokens: _KeepTokens | None = None
    """Budget as a count: number of visual tokens to keep of each image or video. Nothing is pruned if there are no
    more tokens than that. `auto`: the pruner chooses the number for each image and question; `GET /v1/pruners` lists
    such pruners with `chooses_budget`."""

    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    """Budget as a share of the visual tokens of each image or video; at most one of `keep_tokens` and `keep_ratio` may
    be given."""

    image_fit: ImageFit | None = None
    """How an image is brought to the square that the vision tower takes. `crop`: as the checkpoint's processor, where
    LLaVA-1.5's cuts the sides of a long image away; `pad`: the whole image on a square with a plain border. Left out:
    the server's default. `usage` tells the part that was seen."""

    timeout_s: float | None = Field(default=None, gt=0)
    """Time limit of the whole request in seconds, up to the server's maximum; left out: the server's default, 60 unless
    configured."""

    cache: CacheMode = "use"
    """Use of the caches: `use` reads and fills them, `refresh` only fills them, `bypass` does neither."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        try:
            Budget.of(self.keep_tokens, self.keep_ratio)
        except InvalidBudget as error:
            raise PydanticCustomError("one_budget", str(error)) from error
        return self


class AnswerOptions(PruningOptions):
    """Options of a question that is to be answered: a second pruner, and how visual tokens are sent."""

    llm_pruner: LlmPrunerRequest | None = None
    """Second pruner, inside the language model, for the tokens that the first pruner kept; left out: none. In a form: a
    JSON object."""

    wire_dtype: WireFormatName | None = None
    """Wire format of the visual tokens sent to the language model. Left out: the server's default, or the widest format
    that fits if `max_wire_bytes` is given."""

    max_wire_bytes: int | None = Field(default=None, ge=1, lt=2**32)
    """Maximum number of bytes of the visual tokens sent to the language model. The server chooses the number of tokens
    and the wire format. If `keep_tokens` or `keep_ratio` is given, it is an upper bound. If `wire_dtype` is given, it
    is the only format considered. `usage` reports the choice."""

    explain: bool = False
    """Whether to add the score maps and the kept tokens to the response."""


class SamplingOptions(Request):
    """Choice of the next tokens."""

    temperature: float | None = _in_range("temperature")
    """Sampling temperature; 0 is greedy decoding. Left out: 0, unless the server takes the checkpoint's."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: probability mass of the smallest set of tokens that is sampled from. Left out: 1, unless the
    server takes the checkpoint's."""

    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    """Number of the most probable tokens that are sampled from; 0 for all. Left out: 0, unless the server takes the
    checkpoint's."""

    min_p: float | None = _in_range("min_p")
    """Least probability of a token that is sampled, as a share of that of the most probable token. Left out: 0."""

    repetition_penalty: float | None = _in_range("repetition_penalty")
    """Divisor of the logits of all tokens of the prompt and of the answer so far; 1 for none. Left out: the
    checkpoint's, else 1."""

    presence_penalty: float | None = _in_range("presence_penalty")
    """Subtracted from the logit of each token that is in the answer so far. Left out: 0."""

    frequency_penalty: float | None = _in_range("frequency_penalty")
    """Subtracted from the logit of a token, once for each time that it is in the answer so far. Left out: 0."""

    seed: int | None = Field(default=None, ge=0, lt=2**64)
    """Seed of the sampling. With a seed, the answer is reproducible and can be cached."""

    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], BeforeValidator(_as_list)] = Field(
        default_factory=list, max_length=8
    )
    """Stop strings, up to 8. The answer ends before the first one that appears. A single string is also accepted."""
