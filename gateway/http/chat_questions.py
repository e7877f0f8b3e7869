"""Conversion of requests in OpenAI's format to questions of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from fovea.errors import InvalidRequest, NotFound
from gateway.access.clients import Client
from gateway.core.deadlines import until
from gateway.core.question import Question
from gateway.core.question_text import Modality, QuestionText, Turn
from gateway.http.client_errors import errors_for_client
from gateway.http.question_options import encode_spec, llm_pruning, sampling_of
from gateway.http.request_body import read_json
from gateway.http.request_limits import check_question
from gateway.http.schemas.chat import ChatCompletionRequest, FoveaOptions
from gateway.http.schemas.chat_messages import ChatImagePart, ChatMessage, ChatTextPart
from gateway.http.schemas.chat_parsing import parse_chat_request
from gateway.http.state import GatewayState
from gateway.media.inputs import MediaInput, MediaInputs, video_of_url
from gateway.model_names import ModelAlias, parse_alias
from gateway.settings import GatewaySettings

__all__ = ["read_chat", "requested_alias"]

_FIELDS: Final = {name: f"fovea.{name}" for name in FoveaOptions.model_fields} | {"question": "messages"}
"""Names of the client's fields by those of a question, the same for each request."""


def requested_alias(name: str | None, settings: GatewaySettings) -> ModelAlias | None:
    """The pruning that a model name asks for; None for the served model's own name.

    Raises:
        NotFound: The name is not one of the served model.
    """
    try:
        return parse_alias(settings.model_name if name is None else name, settings.model_name)
    except ValueError as error:
        raise NotFound(
            f"model: {error}; accepted are {settings.model_name!r} and, to choose a pruner,"
            f" {settings.model_name}@PRUNER:KEEP_TOKENS",
            param="model",
        ) from error


async def read_chat(request: Request, settings: GatewaySettings) -> _ReadChat:
    """Reads and validates the body of a request.

    Raises:
        ServiceError: The body cannot be read, a field is wrong, or the model is not served.
    """
    body = parse_chat_request(await read_json(request))
    alias = requested_alias(body.model, settings)
    options = body.fovea or FoveaOptions()
    return _ReadChat(body, _with_alias(options, alias), _client_fields(body, alias))


@dataclass(frozen=True)
class _ReadChat:
    """A request in OpenAI's format.

    Attributes:
        body: Validated fields.
        options: Options of Fovea, with the pruning of the alias.
        fields: Names of the client's fields, see `errors_for_client`.
    """

    body: ChatCompletionRequest
    options: FoveaOptions
    fields: Mapping[str, str]

    async def question(self, state: GatewayState, client: Client, *, arrived: float) -> Question:
        """The question. Its messages are moved out of `body`, to free the memory of their media.

        Raises:
            ServiceError: The chat is not accepted, a limit is exceeded, or a file cannot be loaded.
        """
        settings, options = state.settings, self.options
        with errors_for_client(self.fields):
            text, media_inputs = _read_messages(self.body.messages)
            self.body.messages = []
            deadline = arrived + check_question(options, text, media_inputs, settings)
            images, videos = await state.media_loader.load(media_inputs, deadline=deadline)
            async with until(deadline):
                llm = await state.llm.info()
            limit = min(settings.max_tokens, llm.max_tokens or settings.max_tokens)
            return Question(
                text=text,
                encode=encode_spec(options, images, videos),
                sampling=sampling_of(self.body, max_tokens=_max_tokens(self.body, limit)),
                llm_pruner=llm_pruning(options.llm_pruner),
                top_logprobs=self.body.num_top_logprobs,
                cache=options.cache,
                cache_salt=client.tenant,
                client=client.id,
                arrived=arrived,
                deadline=deadline,
            )


def _max_tokens(body: ChatCompletionRequest, limit: int) -> int:
    """Maximum number of tokens: what is asked for, up to the limit. The LLM service stops where the context ends.

    OpenAI has no small default, and evaluation harnesses ask for more than any server has. So neither is refused.
    """
    return min(body.max_completion_tokens or body.max_tokens or limit, limit)


def _with_alias(options: FoveaOptions, alias: ModelAlias | None) -> FoveaOptions:
    """The options with the pruning of an alias. What the alias names may not be named again.

    Raises:
        InvalidRequest: Pruner or budget are named twice.
    """
    if alias is None:
        return options
    named = {"pruner"} if alias.keep_tokens is None else {"pruner", "keep_tokens", "keep_ratio"}
    for name in sorted(named):
        if getattr(options, name) is not None:
            chosen_by_name = "pruner" if name == "pruner" else "budget"
            raise InvalidRequest(
                f"fovea.{name} was given beside a model name that chooses the {chosen_by_name} already; use one of"
                " them",
                param=f"fovea.{name}",
            )
    chosen = {"pruner": alias.pruner} | ({} if alias.keep_tokens is None else {"keep_tokens": alias.keep_tokens})
    return options.model_copy(update=chosen)


def _client_fields(body: ChatCompletionRequest, alias: ModelAlias | None) -> Mapping[str, str]:
    """Names of the client's fields by those of a question."""
    fields = _FIELDS | _media_paths(body, "image") | _media_paths(body, "video")
    if alias is not None:
        fields |= {"pruner": "model"} | ({} if alias.keep_tokens is None else {"keep_tokens": "model"})
    if body.max_completion_tokens is not None:
        fields["max_tokens"] = "max_completion_tokens"
    return fields


def _media_paths(body: ChatCompletionRequest, kind: str) -> dict[str, str]:
    """Paths of the parts of one kind by the names of their media: `image.0`, and `image` for the only one.

    Args:
        body: Request.
        kind: Medium, `image` or `video`.
    """
    paths = [
        _part_path(f"messages.{i}", j, part.type)
        for i, message in enumerate(body.messages)
        for j, part in enumerate(message.content)
        if part.type == f"{kind}_url"
    ]
    numbered = {f"{kind}.{number}": path for number, path in enumerate(paths)}
    return numbered | {kind: paths[0] if len(paths) == 1 else "messages"}


def _part_path(message_path: str, number: int, kind: str) -> str:
    return f"{message_path}.content.{number}.{kind}"


def _read_messages(messages: Sequence[ChatMessage]) -> tuple[QuestionText, MediaInputs]:
    last = len(messages) - 1
    if messages[last].role != "user":
        raise InvalidRequest(
            f"messages.{last}: the last message is of the role {messages[last].role!r}; a chat that ends with a message"
            " of 'user' is accepted, which the assistant then answers",
            param=f"messages.{last}.role",
        )
    media_inputs = MediaInputs()
    turns = tuple(_turn(f"messages.{number}", message, media_inputs) for number, message in enumerate(messages))
    text = "\n".join(part for part in turns[-1].parts if isinstance(part, str))
    # An image or video alone is a request to describe it. Pruners then choose without a question.
    if not text.strip() and all(isinstance(part, str) for part in turns[-1].parts):
        raise InvalidRequest(
            f"messages.{last}.content is empty; a text, an image or a video is needed", param=f"messages.{last}.content"
        )
    return QuestionText(text if text.strip() else "", turns), media_inputs


def _turn(message_path: str, message: ChatMessage, media_inputs: MediaInputs) -> Turn:
    """Turn of a message. The media of the message are appended to `media_inputs`."""
    parts: list[str | Modality] = []
    for number, part in enumerate(message.content):
        if isinstance(part, ChatTextPart):
            parts.append(part.text)
            continue
        path = _part_path(message_path, number, part.type)
        if message.role != "user":
            raise InvalidRequest(
                f"{path}: images and videos are accepted in messages of the role 'user' only", param=path
            )
        if isinstance(part, ChatImagePart):
            media_inputs.images.append(MediaInput(path, part.image_url.url))
            parts.append(Modality.IMAGE)
        else:
            media_inputs.videos.append(video_of_url(path, part.video_url.url))
            parts.append(Modality.VIDEO)
    return Turn("system" if message.role == "developer" else message.role, tuple(parts or [""]))
