"""Files that hold a chat template, and the sandbox in which it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest

from gateway.tokenization.chat_template import ChatTemplate

SOURCE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}{{ eos_token }}"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", SOURCE),
        ("chat_template.json", json.dumps({"chat_template": SOURCE})),
        ("tokenizer_config.json", json.dumps({"chat_template": SOURCE})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "tool", "template": "x"}, {"name": "default", "template": SOURCE}]}),
        ),
    ],
)
def test_a_template_is_found_wherever_checkpoints_keep_it(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert ChatTemplate.load(tmp_path, {"eos_token": "</s>"}).render(MESSAGES) == "user: hello</s>"


def test_a_checkpoint_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no chat template"):
        ChatTemplate.load(tmp_path, {})


def test_helpers_that_templates_expect() -> None:
    source = (
        "{% for x in [1, 2, 3] %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}"
        "{{ {'a': '<é>'} | tojson }}{% generation %}kept{% endgeneration %}"
        "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}\n"
        "    {% if true %}\n!{% endif %}"
    )
    assert ChatTemplate(source, {}).render(MESSAGES) == '12{"a": "<é>"}kept!'


@pytest.mark.parametrize(
    "source", ["{{ raise_exception('roles') }}", "{{ messages.append(1) }}", "{{ ''.__class__.__mro__ }}"]
)
def test_a_template_cannot_leave_its_sandbox(source: str) -> None:
    messages: list[dict[str, Any]] = [dict(MESSAGES[0])]
    with pytest.raises(jinja2.TemplateError):
        ChatTemplate(source, {}).render(messages)
    assert messages == MESSAGES
