"""Authors of a prompt's segments, and texts that a template would leave out."""

from __future__ import annotations

import jinja2
import pytest

from gateway.core.question_text import InterleavedText, Modality, Turn
from gateway.tokenization.chat_prompt import ChatPrompt, LostText
from gateway.tokenization.chat_template import ChatTemplate
from gateway.tokenization.text_placeholders import PromptSegment

LOOP = "{% for m in messages %}"
TEXTS = "{% for p in m['content'] if p['type'] == 'text' %}"


def write(source: str, *turns: Turn) -> list[PromptSegment]:
    return ChatPrompt(ChatTemplate(source, {}), {Modality.IMAGE: "<image>"}).write(turns)


def text(segments: list[PromptSegment]) -> str:
    return "".join(segment.text for segment in segments)


def test_segments_separate_template_and_client_text() -> None:
    source = f"<s>{LOOP}{{{{ m['role'] | upper }}}}: {TEXTS}{{{{ p['text'] }}}} {{% endfor %}}{{% endfor %}}"
    assert write(source, Turn("user", ("<s> ", "USER: a", ""))) == [
        PromptSegment("<s>USER: ", False),
        PromptSegment("<s>", True),
        PromptSegment("  ", False),
        PromptSegment("USER: a", True),
        PromptSegment("  ", False),
    ]


def test_media_in_a_text_are_not_client_text() -> None:
    source = f"{LOOP}{TEXTS}{{{{ p['text'] | trim }}}}{{% endfor %}}{{% endfor %}}"
    interleaved = InterleavedText((" a ", Modality.IMAGE, "<image>", Modality.IMAGE, " "))
    segments = write(source, Turn("user", (interleaved,)))
    assert text(segments) == "a <image><image><image>"
    assert [segment.text for segment in segments if segment.from_client] == ["a", "<image>"]


@pytest.mark.parametrize(
    ("reading", "prompt"),
    [
        ("m['content'][0]['text']", "{Be brief.}{ab}"),
        ("(m['content'] | selectattr('type', 'equalto', 'text') | first)['text']", "{Be brief.}{ab}"),
        ("m['content']", "{Be brief.}{ab}"),
        ("m['content'] | trim", "{Be brief.}{ab}"),
        ("m['content'][0]['text'] ~ m['content'][1]['text']", "{Be brief.}{ab}"),
        ("m['content'][0]['text'] | lower", "{Be brief.}{ab}"),
        ("m['content'] | map(attribute='text') | join('-')", "{Be -brief.}{a-b}"),
    ],
)
def test_no_text_is_lost_whichever_part_of_a_turn_a_template_reads(reading: str, prompt: str) -> None:
    source = f"{LOOP}{{{{ '{{' ~ ({reading}) ~ '}}' }}}}{{% endfor %}}"
    assert text(write(source, Turn("system", ("Be ", "brief.")), Turn("user", ("a", "b")))) == prompt


def test_only_a_turn_with_lost_text_is_reshaped() -> None:
    source = (
        f"{LOOP}{{% if m['role'] == 'user' %}}{TEXTS}{{{{ p['text'] }}}}|{{% endfor %}}"
        "{% else %}{{ m['content'][0]['text'] }}|{% endif %}{% endfor %}"
    )
    turns = (Turn("user", ("a", "b")), Turn("assistant", ("c", "d")), Turn("user", ("e", "f")))
    assert text(write(source, *turns)) == "a|b|cd|e|f|"


def test_media_are_kept_when_texts_are_joined() -> None:
    source = (
        f"{LOOP}{{% for p in m['content'] if p['type'] == 'image' %}}<image>{{% endfor %}}"
        "{{ (m['content'] | selectattr('type', 'equalto', 'text') | first)['text'] }}{% endfor %}"
    )
    assert text(write(source, Turn("user", (Modality.IMAGE, "a", Modality.IMAGE, "b")))) == "<image><image>ab"


@pytest.mark.parametrize("source", ["{{ messages[1]['content'][0]['text'] }}", "{{ messages[0]['role'] }}"])
def test_a_template_that_leaves_out_a_text_is_detected(source: str) -> None:
    with pytest.raises(LostText) as caught:
        write(source, Turn("system", ("Be brief.",)), Turn("user", ("a",)))
    assert caught.value.turn == 0


def test_a_template_that_fails_on_a_turn_raises_a_template_error() -> None:
    with pytest.raises(jinja2.TemplateError):
        write("{{ 'Now: ' + messages[0]['content'] }}", Turn("user", ("a",)))
