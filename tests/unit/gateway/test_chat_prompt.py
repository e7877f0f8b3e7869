"""Who wrote what in a prompt, and that nothing of a client is left out."""

from __future__ import annotations

import jinja2
import pytest

from gateway.chat_prompt import ChatPrompt, LostText
from gateway.chat_template import ChatTemplate
from gateway.question import InterleavedText, Modality, Turn
from gateway.text_placeholders import PromptSegment

LOOP = "{% for m in messages %}"
TEXTS = "{% for p in m['content'] if p['type'] == 'text' %}"


def write(source: str, *turns: Turn) -> list[PromptSegment]:
    return ChatPrompt(ChatTemplate(source, {}), {Modality.IMAGE: "<image>"}).write(turns)


def text(pieces: list[PromptSegment]) -> str:
    return "".join(piece.text for piece in pieces)


def test_pieces_tell_template_from_client() -> None:
    source = f"<s>{LOOP}{{{{ m['role'] | upper }}}}: {TEXTS}{{{{ p['text'] }}}} {{% endfor %}}{{% endfor %}}"
    assert write(source, Turn("user", ("<s> ", "USER: a", ""))) == [
        PromptSegment("<s>USER: ", False),
        PromptSegment("<s>", True),
        PromptSegment("  ", False),
        PromptSegment("USER: a", True),
        PromptSegment("  ", False),
    ]


def test_places_in_a_text_are_no_words_of_the_client() -> None:
    source = f"{LOOP}{TEXTS}{{{{ p['text'] | trim }}}}{{% endfor %}}{{% endfor %}}"
    marked = InterleavedText((" a ", Modality.IMAGE, "<image>", Modality.IMAGE, " "))
    pieces = write(source, Turn("user", (marked,)))
    assert text(pieces) == "a <image><image><image>"
    assert [piece.text for piece in pieces if piece.from_client] == ["a", "<image>"]


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
def test_whatever_a_template_reads_of_a_turn_it_gets_all_texts(reading: str, prompt: str) -> None:
    source = f"{LOOP}{{{{ '{{' ~ ({reading}) ~ '}}' }}}}{{% endfor %}}"
    assert text(write(source, Turn("system", ("Be ", "brief.")), Turn("user", ("a", "b")))) == prompt


def test_only_the_turn_that_loses_something_is_written_otherwise() -> None:
    source = (
        f"{LOOP}{{% if m['role'] == 'user' %}}{TEXTS}{{{{ p['text'] }}}}|{{% endfor %}}"
        "{% else %}{{ m['content'][0]['text'] }}|{% endif %}{% endfor %}"
    )
    turns = (Turn("user", ("a", "b")), Turn("assistant", ("c", "d")), Turn("user", ("e", "f")))
    assert text(write(source, *turns)) == "a|b|cd|e|f|"


def test_media_stay_where_texts_are_put_together() -> None:
    source = (
        f"{LOOP}{{% for p in m['content'] if p['type'] == 'image' %}}<image>{{% endfor %}}"
        "{{ (m['content'] | selectattr('type', 'equalto', 'text') | first)['text'] }}{% endfor %}"
    )
    assert text(write(source, Turn("user", (Modality.IMAGE, "a", Modality.IMAGE, "b")))) == "<image><image>ab"


@pytest.mark.parametrize("source", ["{{ messages[1]['content'][0]['text'] }}", "{{ messages[0]['role'] }}"])
def test_a_template_that_leaves_out_a_turn_is_found_out(source: str) -> None:
    with pytest.raises(LostText) as caught:
        write(source, Turn("system", ("Be brief.",)), Turn("user", ("a",)))
    assert caught.value.turn == 0


def test_a_template_that_fails_over_a_turn_refuses_it() -> None:
    with pytest.raises(jinja2.TemplateError):
        write("{{ 'Now: ' + messages[0]['content'] }}", Turn("user", ("a",)))
