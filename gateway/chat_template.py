"""A checkpoint's chat template, rendered as Hugging Face renders it, without transformers.

The template is somebody else's program: it runs in jinja2's immutable sandbox, once per request, on strings alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fovea.checkpoints import shown_name

__all__ = ["ChatTemplate"]


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training masks; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # jinja2's own filter escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _source(checkpoint: Path) -> str | None:
    jinja = checkpoint / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = checkpoint / name
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"the {name} of {shown_name(checkpoint)!r} is not a JSON object") from error
        if isinstance(found, list):  # several named templates
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
        if isinstance(found, str):
            return found
    return None


class ChatTemplate:
    """Messages to the prompt's text.

    Args:
        source: The jinja2 template.
        special_tokens: Names that templates use (`bos_token`, `eos_token`, ...) and their strings.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, checkpoint: Path, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """Reads chat_template.jinja, else chat_template.json, else `chat_template` of tokenizer_config.json.

        Raises:
            FileNotFoundError: None of the three.
            ValueError: It cannot be read.
        """
        source = _source(checkpoint)
        if source is None:
            raise FileNotFoundError(f"{shown_name(checkpoint)!r} holds no chat template (chat_template.jinja)")
        try:
            return cls(source, special_tokens)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template of {shown_name(checkpoint)!r} is no template: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that asks for the assistant's next turn.

        Raises:
            jinja2.TemplateError: The template refuses these messages, or fails over them.
        """
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except jinja2.TemplateError:
            raise
        except Exception as error:  # a list where the template wants a text raises whatever that operation raises
            raise jinja2.TemplateRuntimeError(f"the template fails: {error}") from error
