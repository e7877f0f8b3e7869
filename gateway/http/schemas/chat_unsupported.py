"""Fields of OpenAI's API, and of servers that extend it, that would change the response and are not offered here.

Other unknown fields are ignored, as OpenAI's servers do. These are refused, because an answer that silently lacks what
was asked for is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fovea.errors import InvalidRequest

__all__ = ["UNSUPPORTED", "check_supported"]

_TOOLS: Final = "this server calls no tools"
_FORMATS: Final = "answers are plain text, without a grammar or schema"
_TEXT_ONLY: Final = "this server answers with text only"
_PROMPT: Final = "the prompt is what the checkpoint's chat template writes for the assistant's next turn"
_PREPROCESSOR: Final = (
    "pixels of an image are those of the checkpoint's preprocessor; keep_tokens bounds its visual tokens"
)
_SEARCH: Final = "this server samples one answer, token by token"

UNSUPPORTED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "tools": (([],), _TOOLS),
    "tool_choice": (("none",), _TOOLS),
    "functions": (([],), _TOOLS),
    "function_call": (("none",), _TOOLS),
    "web_search_options": ((), _TOOLS),
    "documents": (([],), "this server retrieves nothing"),
    "n": ((1,), "this server gives one answer"),
    "best_of": ((1,), _SEARCH),
    "use_beam_search": ((False,), _SEARCH),
    "length_penalty": ((1,), _SEARCH),
    "response_format": (({"type": "text"},), _FORMATS),
    "structured_outputs": ((), _FORMATS),
    "guided_json": ((), _FORMATS),
    "guided_regex": ((), _FORMATS),
    "guided_choice": ((), _FORMATS),
    "guided_grammar": ((), _FORMATS),
    "json_schema": ((), _FORMATS),
    "regex": ((), _FORMATS),
    "ebnf": ((), _FORMATS),
    "modalities": ((["text"],), _TEXT_ONLY),
    "audio": ((), _TEXT_ONLY),
    "prompt_logprobs": ((), "log-probabilities are those of the answer's tokens"),
    "return_token_ids": ((False,), _TEXT_ONLY),
    "return_tokens_as_token_ids": ((False,), "tokens of log-probabilities are texts, with their bytes"),
    "logit_bias": (({},), "logits are changed by the penalties alone"),
    "logits_processors": (([],), "logits are changed by the penalties alone"),
    "allowed_token_ids": ((), "logits are changed by the penalties alone"),
    "bad_words": (([],), "logits are changed by the penalties alone"),
    "min_tokens": ((0,), "an answer ends at the end token, a stop string or the maximum number of tokens"),
    "stop_token_ids": (([],), "an answer ends at the end token, a stop string or the maximum number of tokens"),
    "include_stop_str_in_output": ((False,), "an answer ends before the stop string"),
    "skip_special_tokens": ((True,), "special tokens are not part of the text"),
    "prefix": (("", False), _PROMPT),
    "suffix": (("",), _PROMPT),
    "echo": ((False,), _PROMPT),
    "continue_final_message": ((False,), _PROMPT),
    "add_generation_prompt": ((True,), _PROMPT),
    "chat_template": ((), _PROMPT),
    "truncate_prompt_tokens": ((), _PROMPT),
    "mm_processor_kwargs": (({},), _PREPROCESSOR),
    "cache_salt": (("",), "caches are kept apart by the tenants of API keys (--keys-file)"),
}
"""By field: the values that change nothing, and the reason why others are refused."""


def check_supported(fields: Mapping[str, Any]) -> None:
    """Refuses the first field that would change the response or the use of caches, and that this server lacks.

    Args:
        fields: Fields of a request, without those that are null.

    Raises:
        InvalidRequest: There is such a field. The error names it and the values that are accepted.
    """
    for name, value in fields.items():
        if name not in UNSUPPORTED:
            continue
        neutral, reason = UNSUPPORTED[name]
        if not any(_equal(value, accepted) for accepted in neutral):
            accepted = " or ".join([*map(_shown, neutral), "leaving it out"])
            raise InvalidRequest(f"{name} is not accepted: {reason}; accepted: {accepted}", param=name)


def _equal(value: Any, accepted: Any) -> bool:
    # 1 and True are equal in Python, and not in JSON.
    return bool(value == accepted) and isinstance(value, bool) == isinstance(accepted, bool)


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value).replace("'", '"')
