"""Chat template of a checkpoint, rendered as transformers renders it, without that library.

A template is untrusted code. It runs in jinja2's immutable sandbox, at most once per request, on strings only.
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
    """The tag `{% generation %}`, which marks assistant text for training masks; it has no effect here."""

    tags = {"generation"}  # noqa: RUF012  (jinja2's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # The filter of jinja2 escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _template_source(checkpoint: Path) -> str | None:
    jinja = checkpoint / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        path = checkpoint / name
        if not path.is_file():
            continue
        try:
            template = json.loads(path.read_text(encoding="utf-8")).get("chat_template")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"the {name} of {shown_name(checkpoint)!r} is not a JSON object") from error
        if isinstance(template, list):  # several named templates
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if isinstance(template, str):
            return template
    return None


class ChatTemplate:
    """Renderer of messages to the text of a prompt.

    Args:
        source: The jinja2 template.
        special_tokens: Strings of the special tokens by the names that templates use (`bos_token`, `eos_token`, ...).

    Attributes:
        reads_clock: Whether prompts depend on the time.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        self._template = environment.from_string(source)
        self.reads_clock = "strftime_now" in source
        self._special_tokens = dict(special_tokens)

    @classmethod
    def load(cls, checkpoint: Path, special_tokens: Mapping[str, str]) -> ChatTemplate:
        """The template of a checkpoint, from the first of these files that holds one: chat_template.jinja,
        chat_template.json, processor_config.json, tokenizer_config.json.

        Raises:
            FileNotFoundError: No file holds a template.
            ValueError: A file cannot be read, or is not a template.
        """
        source = _template_source(checkpoint)
        if source is None:
            raise FileNotFoundError(f"{shown_name(checkpoint)!r} holds no chat template (chat_template.jinja)")
        try:
            return cls(source, special_tokens)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template of {shown_name(checkpoint)!r} is not a jinja2 template: {error}"
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that asks for the assistant's next turn.

        Raises:
            jinja2.TemplateError: The template refuses these messages, or fails on them.
        """
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special_tokens
            )
        except jinja2.TemplateError:
            raise
        except Exception as error:  # an operation of the template on a list in place of a string may raise anything
            raise jinja2.TemplateRuntimeError(f"the template fails: {error}") from error
